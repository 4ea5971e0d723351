// heartwire.js in Chromium against the program: what can happen to a line, and how long it took to see it.

import { build, certificates, check, launch, Line, missing } from './support.mjs';
import { Server, sleep, StrangeServer, Tab, within } from './support.mjs';
import { GUIDE_SCENARIOS } from './guide-scenarios.mjs';
import { nodesScenarios } from './nodes-scenarios.mjs';
import { TOPICS_SCENARIOS } from './topics-scenarios.mjs';

// In milliseconds. A dead line is found within INTERVAL + 3 x TIMEOUT.
const INTERVAL = 500;
const TIMEOUT = 400;
const BOUND = INTERVAL + 3 * TIMEOUT;
// How late a loaded machine may be before we call it a fault.
const SLACK = 3_000;

const BEAT = ['--ping-interval', `${INTERVAL}ms`, '--pong-timeout', `${TIMEOUT}ms`, '--max-missed', '3'];
/** A beat so slow that nothing is found by it here, unless the line is asked in between: then within DOUBT. */
const SLOW_BEAT = ['--ping-interval', '60s', '--pong-timeout', '1s', '--max-missed', '3'];
const DOUBT = 3_000;

/** Runs in the page: a HeartSocket to where the page is from, and what happens to it. */
async function openSocket(options) {
  const { HeartSocket } = await import('/heartwire.js');
  window.events = [];
  window.socket = new HeartSocket(location.href.replace(/^http/, 'ws').replace('/healthz', '/'), [], options);
  for (const type of ['open', 'settings', 'message', 'missed', 'beat', 'close']) {
    window.socket.addEventListener(type, (event) => {
      const { data, code, reason, roundTrip } = event;
      // Large messages stay in the page.
      window.events.push({ type, at: Date.now(), data: data?.length > 100 ? '' : data, code, reason, roundTrip });
    });
  }
}

async function hiddenTab(browser, url, options = {}) {
  const tab = await Tab.open(browser, `${url}/healthz`);
  await tab.until('the page is there', () => location.pathname === '/healthz' && document.readyState === 'complete');
  await tab.evaluate(openSocket, options);
  await tab.until('the settings are known', () => window.socket.settings);
  await tab.hide();
  await tab.until('it is hidden', () => document.visibilityState === 'hidden');
  return tab;
}

/** A page of the server's origin, or of the line to it, with a HeartSocket; `happened` gives its events. */
async function visit(browser, url, options = {}) {
  const context = await browser.newContext();
  const page = await context.newPage();
  await page.goto(`${url}/healthz`);
  await page.evaluate(openSocket, options);
  const happened = async (type, number = 1) => {
    const wanted = ([type, number]) => window.events.filter((event) => event.type === type)[number - 1];
    const found = page.waitForFunction(wanted, [type, number], { timeout: 0 });
    return (await within(`${type} ${number} in the page`, found)).jsonValue();
  };
  const count = (type) => page.evaluate((type) => window.events.filter((event) => event.type === type).length, type);
  await happened('open');
  return { context, page, happened, count };
}

/** Each gives what the table is to say: `[what was measured, milliseconds, bound]`. `tls` are a server's options. */
const SCENARIOS = {
  async 'settings, heartbeat and echo'(browser, tls = []) {
    const server = await Server.start([...BEAT, ...tls]);
    const { page, happened } = await visit(browser, server.url);
    await happened('settings');
    const beat = await happened('beat', 2);
    await page.evaluate(() => window.socket.send('hello'));
    await happened('message');
    const { messages, interval, timeout, connection } = await page.evaluate(() => ({
      messages: window.events.filter((event) => event.type === 'message').map(({ data }) => data),
      ...window.socket.heartbeat,
      ...window.socket.settings,
    }));
    check(messages.join() === 'hello', `the page was shown ${JSON.stringify(messages)}`);
    check(interval === INTERVAL && timeout === TIMEOUT && connection > 0, 'the settings were not learnt');
    await server.stop();
    check((await server.log.with('ended')).includes('1 message in, '), 'heartbeats were counted as messages');
    return ['round trip', beat.roundTrip, TIMEOUT];
  },

  async 'server killed, and back'(browser, tls = []) {
    const server = await Server.start([...BEAT, ...tls]);
    const { happened, page } = await visit(browser, server.url, { reconnect: { longest: 1_000 } });
    await server.kill();
    await happened('close');
    await sleep(1_500);
    const again = await server.again();
    const since = Date.now();
    const opened = await happened('open', 2);
    await page.evaluate(() => window.socket.send('back'));
    check((await happened('message')).data === 'back', 'no echo after the restart');
    await again.stop();
    return ['open again after its start', opened.at - since, 1_000];
  },

  async 'server frozen (SIGSTOP)'(browser) {
    const server = await Server.start(BEAT);
    const { happened } = await visit(browser, server.url);
    await happened('beat');
    server.child.kill('SIGSTOP');
    const since = Date.now();
    const closed = await happened('close');
    check(closed.reason === 'heartbeat lost', `closed by another cause: ${closed.reason}`);
    check(closed.at - since >= 2 * TIMEOUT, 'found dead too early');
    server.child.kill('SIGCONT');
    await happened('open', 2);
    await server.stop();
    return ['found dead', closed.at - since, BOUND];
  },

  async 'line cut without a word'(browser, tls = []) {
    const server = await Server.start([...BEAT, ...tls]);
    const line = await Line.to(server);
    const { happened } = await visit(browser, line.url, { connectTimeout: 1_000, reconnect: { longest: 500 } });
    await happened('beat');
    line.cut();
    const since = Date.now();
    const closed = await happened('close');
    check(closed.reason === 'heartbeat lost', `closed by another cause: ${closed.reason}`);
    await server.log.with('heartbeat lost');
    line.mend();
    await happened('open', 2);
    line.close();
    await server.stop();
    return ['found dead, by both ends', closed.at - since, BOUND];
  },

  async 'the same without a heartbeat: not found'(browser) {
    const server = await Server.start(BEAT);
    const line = await Line.to(server);
    const { count } = await visit(browser, line.url, { heartbeat: 'off' });
    line.cut();
    await sleep(BOUND + SLACK);
    check((await count('close')) === 0, 'found without a heartbeat: the check proves nothing');
    line.close();
    await server.stop();
    return ['not found for', BOUND + SLACK, Infinity];
  },

  async 'tab hidden, timers held back'(browser) {
    const server = await Server.start(BEAT);
    const tab = await hiddenTab(browser, server.url);
    const gap = await tab.evaluate(async () => {
      // How late timers are.
      const began = performance.now();
      for (let i = 0; i < 5; i += 1) await new Promise((resolve) => setTimeout(resolve, 100));
      return (performance.now() - began) / 5;
    });
    check(gap > 200, `timers are not held back: one of 100 ms takes ${gap} ms`);
    const since = Date.now();
    await sleep(6_000);
    const took = Date.now() - since;
    const events = await tab.evaluate(() => window.events.map(({ type }) => type));
    check(!events.includes('close'), 'the line was given up');
    check(events.filter((type) => type === 'beat').length >= 3, 'the heart does not beat while the page is hidden');
    check(!server.log.lines.some((text) => text.includes('missed')), 'the server missed Pongs');
    await tab.close();
    await server.stop();
    return ['alive for', took, Infinity];
  },

  async 'tab hidden, line cut, tab shown'(browser) {
    const server = await Server.start(SLOW_BEAT);
    const line = await Line.to(server);
    const tab = await hiddenTab(browser, line.url);
    line.cut();
    await sleep(1_000);
    check(!(await tab.evaluate(() => window.events.some(({ type }) => type === 'close'))), 'found too early');
    const since = Date.now();
    await tab.show();
    await tab.until('the line is given up', () => window.events.some(({ type }) => type === 'close'));
    const took = Date.now() - since;
    await tab.close();
    line.close();
    await server.stop();
    return ['found dead after it was shown', took, DOUBT];
  },

  async 'tab shown while a message arrives'(browser) {
    const beat = ['--ping-interval', '60s', '--pong-timeout', '4s'];
    const server = await Server.start([...beat, '--max-message-size', '16MiB']);
    // The echo takes some 8 s, and nothing can overtake it.
    const line = await Line.to(server, { down: 1_500_000 });
    const tab = await hiddenTab(browser, line.url, { probeTimeout: 1_000 });
    const since = Date.now();
    await tab.evaluate(() => window.socket.send('x'.repeat(12_000_000)));
    await sleep(1_000);
    await tab.show();
    const isOver = () => window.events.some(({ type }) => type === 'message' || type === 'close');
    await tab.until('the message is there', isOver);
    const took = Date.now() - since;
    check(!(await tab.evaluate(() => window.events.some(({ type }) => type === 'close'))), 'the line was given up');
    check(took > 4_000, `it took only ${took} ms: the check proves nothing`);
    await tab.close();
    line.close();
    await server.stop();
    return ['alive, the message took', took, 12_000];
  },

  async 'machine slept, line gone'(browser) {
    const server = await Server.start(['--ping-interval', '60s', '--pong-timeout', '10s']);
    const line = await Line.to(server);
    const { page, happened } = await visit(browser, line.url, { probeTimeout: 1_000 });
    await happened('settings');
    line.cut();
    const since = Date.now();
    await page.evaluate(() => {
      // As after a sleep of an hour: only the wall clock has gone on.
      const now = Date.now.bind(Date);
      Date.now = () => now() + 3_600_000;
      window.dispatchEvent(new Event('online'));
    });
    await happened('close');
    const took = Date.now() - since;
    line.close();
    await server.stop();
    return ['found dead', took, 1_000];
  },

  async 'upload faster than the line'(browser) {
    const settings = ['--ping-interval', '500ms', '--pong-timeout', '1s', '--max-missed', '3'];
    const size = ['--max-message-size', '32MiB', '--queue-size', '64MiB'];
    const server = await Server.start([...settings, ...size]);
    const line = await Line.to(server, { up: 4_000_000 });
    const { page, happened, count } = await visit(browser, line.url);
    await happened('beat');
    const since = Date.now();
    // Of 20 MB each: the first comes back after 5 s, when two more have been sent.
    await page.evaluate(async () => {
      for (let number = 0; number < 3; number += 1) {
        window.socket.send('x'.repeat(20_000_000));
        await new Promise((resolve) => setTimeout(resolve, 1_500));
      }
    });
    const first = await Promise.race([happened('message'), happened('close')]);
    check(first.type === 'message', `given up after ${first.at - since} ms: ${first.reason}`);
    check(first.at - since > 3_000, `an echo came after ${first.at - since} ms: the check proves nothing`);
    const last = await Promise.race([happened('message', 3), happened('close')]);
    check(last.type === 'message', `given up after ${last.at - since} ms: ${last.reason}`);
    check((await count('open')) === 1, 'there was another connection');
    line.close();
    await server.stop();
    return ['alive, the upload took', last.at - since, 20_000];
  },

  async 'upload into a line that is cut'(browser) {
    const server = await Server.start(BEAT);
    const line = await Line.to(server);
    const { page, happened } = await visit(browser, line.url, { connectTimeout: 1_000 });
    await happened('beat');
    line.cut();
    // The system's buffers take some of it, now and then for seconds. The clock runs from the last that was taken.
    await page.evaluate(() => {
      window.socket.send(new Uint8Array(40_000_000));
      window.takenAt = Date.now();
      let before = window.socket.bufferedAmount;
      const look = setInterval(() => {
        if (window.events.some(({ type }) => type === 'close')) return clearInterval(look);
        const unsent = window.socket.bufferedAmount;
        if (unsent < before) window.takenAt = Date.now();
        before = unsent;
      }, 20);
    });
    const closed = await happened('close');
    check(closed.reason === 'line stalled', `closed by another cause: ${closed.reason}`);
    const since = await page.evaluate(() => window.takenAt);
    line.close();
    await server.stop();
    return ['found stalled', closed.at - since, BOUND];
  },

  async 'page frozen, and thawed'(browser) {
    const server = await Server.start(BEAT);
    const { page, count, happened } = await visit(browser, server.url);
    await happened('beat');
    const client = await page.context().newCDPSession(page);
    await client.send('Page.setWebLifecycleState', { state: 'frozen' });
    await sleep(BOUND + SLACK);
    await client.send('Page.setWebLifecycleState', { state: 'active' });
    const beats = await count('beat');
    await happened('beat', beats + 1);
    check((await count('close')) === 0 && (await count('open')) === 1, 'the line was given up');
    await server.stop();
    return ['alive for', BOUND + SLACK, Infinity];
  },

  async 'offline, line gone, online'(browser) {
    const server = await Server.start(SLOW_BEAT);
    const line = await Line.to(server);
    const { context, happened, count } = await visit(browser, line.url, {
      connectTimeout: 1_000,
      reconnect: { longest: 500 },
    });
    await happened('settings');
    await context.setOffline(true);
    line.cut();
    await sleep(500);
    const before = await count('close');
    const since = Date.now();
    await context.setOffline(false);
    const closed = await happened('close', before + 1);
    line.mend();
    await happened('open', 2);
    line.close();
    await server.stop();
    return ['found dead', closed.at - since, DOUBT];
  },

  async 'offline and online, line kept'(browser) {
    const server = await Server.start(SLOW_BEAT);
    const { context, happened, count } = await visit(browser, server.url, { reconnect: { longest: 500 } });
    await happened('settings');
    await context.setOffline(true);
    await sleep(300);
    const wasKept = (await count('close')) === 0;
    const since = Date.now();
    await context.setOffline(false);
    const seen = await happened(wasKept ? 'beat' : 'open', wasKept ? 1 : 2);
    await server.stop();
    return [wasKept ? 'asked, and alive' : 'open again', seen.at - since, 1_000];
  },

  async 'page left'(browser, tls = []) {
    const server = await Server.start([...BEAT, ...tls]);
    const { page } = await visit(browser, server.url);
    const since = Date.now();
    await page.goto('about:blank');
    await server.log.with('closed by peer with 1000 "page left"');
    const took = Date.now() - since;
    await server.stop();
    return ['closed', took, 1_000];
  },

  async 'server without heartwire.v1'(browser) {
    const server = await StrangeServer.start();
    const since = Date.now();
    const { page, happened } = await visit(browser, server.url);
    const opened = await happened('open');
    const { protocol, heartbeat } = await page.evaluate(() => {
      const { protocol, heartbeat } = window.socket;
      return { protocol, heartbeat };
    });
    check(protocol === '' && heartbeat === null, `it agreed to ${protocol}`);
    server.close();
    return ['page loaded, and open', opened.at - since, 1_000];
  },

  async 'classic plain page (--text-heartbeat)'(browser) {
    const led = ['--heartbeat', 'peer', '--expect', '2s', '--max-missed', '1'];
    const server = await Server.start(['--text-heartbeat', ...led]);
    const context = await browser.newContext();
    const page = await context.newPage();
    await page.goto(`${server.url}/healthz`);
    await page.evaluate(classicPage, `ws://${server.address}/`);
    const state = () => page.evaluate(() => window.classic);
    const until = (wanted) => within(`the classic page: ${wanted}`, page.waitForFunction(wanted, null, { timeout: 0 }));
    await until(() => window.classic.opened === 1);
    // Only its beat keeps it alive.
    await until(() => window.classic.received.filter((text) => text === 'pong').length >= 8);
    check((await state()).opened === 1, 'it was found dead while it beat');
    await page.evaluate(() => window.classic.socket.send('hello'));
    await until(() => window.classic.received.includes('hello'));
    check(!(await state()).received.some((text) => text.startsWith('ping')), 'its beats were echoed');
    await server.kill();
    const again = await server.again();
    const since = Date.now();
    await until(() => window.classic.opened === 2);
    const took = Date.now() - since;
    await page.goto('about:blank');
    await again.log.with('closed by peer');
    await again.stop();
    return ['open again after its start', took, 2_000];
  },

  async 'status page through a restart'(browser, tls = []) {
    const server = await Server.start([...BEAT, ...tls]);
    const page = await (await browser.newContext()).newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    await page.goto(server.url);
    const live = () => document.getElementById('status').textContent === 'live';
    const rows = () => document.querySelectorAll('#connections tr[data-state=alive]').length;
    await within('the page is live', page.waitForFunction(live));
    await within('it shows itself', page.waitForFunction(rows));
    check(errors.length === 0, `errors in the page: ${errors}`);
    await server.kill();
    const isLost = () => document.getElementById('status').dataset.state !== 'alive';
    await within('the page knows', page.waitForFunction(isLost));
    const again = await server.again();
    const since = Date.now();
    await within('the page is live again', page.waitForFunction(live));
    const took = Date.now() - since;
    await again.stop();
    return ['live again after its start', took, 5_000];
  },

  async 'example push through a restart'(browser) {
    const server = await Server.start([], '127.0.0.1:0', 'examples/push');
    const page = await (await browser.newContext()).newPage();
    await page.goto(server.url);
    const news = () => Number(/news (\d+)/.exec(document.getElementById('news').textContent)?.[1]);
    await within('news come', page.waitForFunction(`(${news})() >= 2`));
    await server.kill();
    const isGone = () => document.getElementById('state').textContent.includes('gone');
    await within('the page knows', page.waitForFunction(isGone));
    const again = await server.again();
    const since = Date.now();
    await within('news come again', page.waitForFunction(`!(${isGone})() && (${news})() >= 1`));
    const took = Date.now() - since;
    again.child.kill('SIGKILL');
    await again.ended;
    return ['news again after its start', took, 3_000];
  },

  async 'status refused to a foreign page'(browser) {
    const [server, other] = [await Server.start(), await Server.start()];
    const { page } = await visit(browser, other.url);
    const open = (url) =>
      page.evaluate((url) => {
        const socket = new WebSocket(url);
        return new Promise((resolve) => {
          socket.onopen = () => resolve('open');
          socket.onclose = () => resolve('refused');
        });
      }, url);
    const since = Date.now();
    check((await open(`ws://${server.address}/heartwire/status`)) === 'refused', 'a foreign page sees the status');
    const took = Date.now() - since;
    check((await open(`ws://${server.address}/`)) === 'open', 'it cannot even connect: the check proves nothing');
    await server.stop();
    await other.stop();
    return ['refused', took, 1_000];
  },
};

/** These again, with a page of https and a WebSocket of wss. */
const OVER_HTTPS = [
  'settings, heartbeat and echo',
  'server killed, and back',
  'line cut without a word',
  'page left',
  'status page through a restart',
];

/** And these besides, with a server's options for the certificate that the browser accepts. */
const HTTPS_ONLY = {
  async 'metrics and heartwire.js, https'(browser, tls) {
    const server = await Server.start([...BEAT, ...tls]);
    const { page } = await visit(browser, server.url);
    const since = Date.now();
    const seen = await page.evaluate(async () => {
      const answers = await Promise.all(['/metrics', '/heartwire.js'].map((path) => fetch(path)));
      const texts = await Promise.all(answers.map((answer) => answer.text()));
      const statuses = answers.map(({ status }) => status);
      return { isSecure: window.isSecureContext, url: window.socket.url, statuses, texts };
    });
    const took = Date.now() - since;
    const [metrics, module] = seen.texts;
    check(seen.statuses.join() === '200,200', `answered with ${seen.statuses}`);
    check(/^heartwire_connections 1(\.0)?$/m.test(metrics), `the page does not count in ${metrics}`);
    check(module.includes('export class HeartSocket'), 'heartwire.js is something else');
    check(seen.isSecure && seen.url.startsWith('wss://'), `it is not over TLS: ${seen.url}`);
    await server.stop();
    return ['both there', took, 1_000];
  },

  async 'a try on the status page, https'(browser, tls) {
    const server = await Server.start([...BEAT, ...tls]);
    const page = await (await browser.newContext()).newPage();
    await page.goto(server.url);
    const isLive = () => document.getElementById('status').textContent === 'live';
    await within('the page is live', page.waitForFunction(isLive));
    const command = await page.textContent('#command');
    check(command === `heartwire connect wss://${server.address}/`, `it advises ${command}`);
    const since = Date.now();
    await page.click('#try-connect');
    await page.fill('#try-text', 'bounce');
    // It can be clicked as soon as there is a connection.
    await page.click('#try-send');
    const isBack = () => document.getElementById('try-log').textContent.split('bounce').length === 3;
    await within('the echo is there', page.waitForFunction(isBack));
    const took = Date.now() - since;
    await server.stop();
    return ['connected, and the echo', took, 1_000];
  },

  async 'certificate of another key, https (control)'(browser) {
    const server = await Server.start(certificates().serve);
    const page = await (await browser.newContext()).newPage();
    const since = Date.now();
    const refused = await page.goto(server.url).then(() => 'nothing', (error) => error.message);
    check(refused.includes('ERR_CERT_AUTHORITY_INVALID'), `refused because of ${refused}`);
    const took = Date.now() - since;
    await server.log.with('handshake failed: TLS');
    await server.stop();
    return ['refused by the browser', took, 1_000];
  },
};

/** Runs in the page: the heartbeat that pages have had for years, without a library. */
function classicPage(url) {
  const state = { opened: 0, received: [], socket: null };
  window.classic = state;
  let isLocked = false;
  let beat;
  let silence;
  const reset = () => {
    clearTimeout(beat);
    clearTimeout(silence);
    beat = setTimeout(() => {
      state.socket.send('ping');
      silence = setTimeout(() => state.socket.close(), 1_000);
    }, 500);
  };
  const reconnect = () => {
    clearTimeout(beat);
    clearTimeout(silence);
    if (isLocked) return;
    isLocked = true;
    setTimeout(() => {
      isLocked = false;
      connect();
    }, 2_000);
  };
  const connect = () => {
    state.socket = new WebSocket(url);
    state.socket.onopen = () => {
      state.opened += 1;
      reset();
    };
    state.socket.onmessage = ({ data }) => {
      state.received.push(data);
      reset();
    };
    state.socket.onclose = reconnect;
    state.socket.onerror = reconnect;
  };
  window.addEventListener('beforeunload', () => {
    state.socket.onclose = null;
    state.socket.close();
  });
  connect();
}

/** Names and functions of them all. */
function scenarios({ serve }) {
  const again = OVER_HTTPS.map((name) => [`${name}, https`, (browser) => SCENARIOS[name](browser, serve)]);
  const only = Object.entries(HTTPS_ONLY).map(([name, scenario]) => [name, (browser) => scenario(browser, serve)]);
  const plain = { ...SCENARIOS, ...TOPICS_SCENARIOS, ...nodesScenarios(), ...GUIDE_SCENARIOS };
  return [...Object.entries(plain), ...again, ...only];
}

async function main(parts) {
  const reason = missing();
  if (reason) {
    console.log(reason);
    return 77;
  }
  build();
  const made = certificates();
  const browser = await launch(made);
  const table = [];
  for (const [name, scenario] of scenarios(made)) {
    if (parts.length > 0 && !parts.some((part) => name.includes(part))) continue;
    try {
      const [what, took, bound] = await within(name, scenario(browser), 120_000);
      const isLate = took > bound + SLACK;
      const limit = bound === Infinity ? '' : `${(bound / 1_000).toFixed(2)} s`;
      table.push([name, isLate ? 'FAILED' : 'passed', what, `${(took / 1_000).toFixed(took < 100 ? 4 : 2)} s`, limit]);
    } catch (error) {
      table.push([name, 'FAILED', error.message.split('\n')[0], '', '']);
      console.log(`${name}: ${error.stack}`);
    }
    for (const context of browser.contexts()) await context.close();
  }
  await browser.close();
  print([['scenario', 'outcome', 'measured', 'time', 'bound'], ...table]);
  return table.length > 0 && table.every(([, outcome]) => outcome === 'passed') ? 0 : 1;
}

function print(table) {
  const widths = table[0].map((_, column) => Math.max(...table.map((row) => row[column].length)));
  const lines = table.map((row) => `| ${row.map((cell, column) => cell.padEnd(widths[column])).join(' | ')} |`);
  lines.splice(1, 0, `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`);
  console.log(`\nThe server ran with ${BEAT.join(' ')} where the bound follows from it.\n\n${lines.join('\n')}\n`);
}

process.exit(await main(process.argv.slice(2)));
