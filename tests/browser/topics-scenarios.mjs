// Topics in Chromium: pages that are cut off while numbered messages are published by HTTP, and what they have missed.
// Each is given by name, with a control: a page of the same kind that has to miss some.

import { readFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';

import { CEILING, check, Line, root, Server, sleep, within } from './support.mjs';

const OPTIONS = ['--mode', 'topics', '--ping-interval', '500ms', '--pong-timeout', '400ms', '--max-missed', '3'];
/** For how long a line is silent, in milliseconds. */
const SILENCE = 5_000;
/** How often a number is published. */
const PAUSE = 20;

/** Publishes 1, 2, 3 and so on, each until the server has accepted it. */
class Numbers {
  last = 0;
  #agent = new http.Agent({ keepAlive: true });
  #isOver = true;
  #running = null;

  constructor(server, topic = 'numbers') {
    Object.assign(this, { server, topic });
  }

  /** Begins, or goes on. Whatever fails is told by `pause`. */
  begin() {
    if (!this.#isOver) return;
    this.#isOver = false;
    this.#running = this.#run();
    this.#running.catch(() => {});
  }

  async #run() {
    while (!this.#isOver) {
      await this.#publish(String(this.last + 1));
      this.last += 1;
      await sleep(PAUSE);
    }
  }

  async #publish(number) {
    const deadline = Date.now() + CEILING;
    while (!(await this.#post(number).catch(() => false))) {
      check(Date.now() < deadline, `${number} was not published`);
      await sleep(PAUSE);
    }
  }

  #post(number) {
    const [host, port] = this.server.address.split(':');
    // So that a number is published once, though its answer may be lost.
    const headers = { 'Content-Type': 'text/plain', 'Idempotency-Key': number };
    return new Promise((resolve, reject) => {
      const request = http.request({ host, port, path: `/topics/${this.topic}`, method: 'POST', headers, agent: this.#agent });
      request.on('response', (response) => {
        response.resume().on('end', () => resolve(response.statusCode === 200)).on('error', reject);
      });
      request.on('error', reject);
      request.end(number);
    });
  }

  /** Waits until this number is published. */
  async reach(number) {
    const deadline = Date.now() + CEILING;
    while (this.last < number) {
      check(Date.now() < deadline, `${number} is not published`);
      await sleep(PAUSE);
    }
  }

  /** Publishes no more, once the last has been accepted. */
  async pause() {
    this.#isOver = true;
    await within('the last number is published', this.#running);
    this.#agent.destroy();
    this.#agent = new http.Agent({ keepAlive: true });
  }
}

/** Runs in the page: keeps what it is given of the topic, in the tab, so that a page that is loaded again goes on. */
async function readNumbers([kind, url]) {
  const got = JSON.parse(sessionStorage.getItem('got') ?? '[]');
  const take = (item) => {
    got.push(item);
    sessionStorage.setItem('got', JSON.stringify(got));
  };
  Object.assign(window, { got, opened: 0 });
  const base = url.replace(/^http/, 'ws');
  if (kind === 'bare') {
    // As pages have done it for years.
    const connect = () => {
      const socket = new WebSocket(`${base}/topics/numbers`);
      socket.onopen = () => (window.opened += 1);
      socket.onmessage = ({ data }) => take(Number(data));
      socket.onclose = () => setTimeout(connect, 100);
    };
    connect();
    return;
  }
  const { Topics } = await import('/heartwire.js');
  const options = { connectTimeout: 1_000, reconnect: { longest: 500 } };
  const topics = new Topics(`${base}/`, kind === 'stored' ? { ...options, storage: sessionStorage } : options);
  topics.socket.addEventListener('open', () => (window.opened += 1));
  await topics.subscribe('numbers', ({ data }) => take(Number(data)), { onlost: () => take('lost') }).ready;
}

/** A page that reads the numbers, through a line or from the server. */
class Reader {
  static async open(browser, url, kind) {
    const reader = new Reader();
    Object.assign(reader, { url, kind, page: await (await browser.newContext()).newPage() });
    await reader.load();
    return reader;
  }

  async load() {
    await this.page.goto(`${this.url}/healthz`);
    await within('the page reads', this.page.evaluate(readNumbers, [this.kind, this.url]));
    const isOpen = this.page.waitForFunction(() => window.opened > 0, null, { timeout: 0 });
    await within('the page is connected', isOpen);
  }

  got() {
    return this.page.evaluate(() => window.got);
  }

  opened() {
    return this.page.evaluate(() => window.opened);
  }

  /** Waits until it has this number, or a later one. */
  has(number) {
    const isThere = (number) => window.got.at(-1) >= number;
    return within(`${number} in the page`, this.page.waitForFunction(isThere, number, { timeout: 0 }));
  }
}

/** What is wrong with what a page got of the numbers, from the first that it got to the last; `null` if nothing is. */
function fault(got, last) {
  for (const [place, item] of got.entries()) {
    if (item === 'lost') return `some are lost after ${got[place - 1]}`;
    if (item !== got[0] + place) return `${item} follows ${got[place - 1]}`;
  }
  return got.at(-1) === last ? null : `it ends with ${got.at(-1)} of ${last}`;
}

function misses(outcome) {
  check(outcome !== null, 'it misses none: the check proves nothing');
}

/** The last is published, and has arrived. */
async function finish(numbers, reader) {
  await numbers.pause();
  await reader.has(numbers.last);
  return fault(await reader.got(), numbers.last);
}

/** A page of this kind, while the line is cut off by `cut`. Gives what is wrong with what it got, and how late it was. */
async function cutOff(browser, kind, cut) {
  const server = await Server.start(OPTIONS);
  const line = await Line.to(server);
  const reader = await Reader.open(browser, line.url, kind);
  const numbers = new Numbers(server);
  numbers.begin();
  await reader.has(10);
  await cut(line, numbers, reader);
  const since = Date.now();
  await reader.has(numbers.last);
  const took = Date.now() - since;
  check((await reader.opened()) >= 2, 'there was no other connection: the line was not cut off');
  const outcome = await finish(numbers, reader);
  line.close();
  await server.stop();
  return { outcome, took };
}

/** No FIN, and whatever either end sends is swallowed. */
async function silence(line, numbers, reader) {
  line.swallow();
  const [before, published] = [(await reader.got()).length, numbers.last];
  await sleep(SILENCE);
  const heard = (await reader.got()).length - before;
  // What was in the page's own buffers may have come.
  check(heard < 10, `the page got ${heard} messages meanwhile`);
  check(numbers.last - published > 50, `only ${numbers.last - published} were published meanwhile`);
  line.mend();
}

async function resets(line, numbers, reader) {
  for (let count = 1; count <= 3; count += 1) {
    line.reset();
    const isBack = reader.page.waitForFunction((count) => window.opened > count, count, { timeout: 0 });
    await within('the page is back', isBack);
    await reader.has(numbers.last);
  }
}

/** A page that reads while its server is ended by `end`, and another begins, which it does not reach at once. */
async function restart(browser, options, end) {
  const server = await Server.start([...OPTIONS, ...options]);
  const line = await Line.to(server);
  const reader = await Reader.open(browser, line.url, 'topics');
  const numbers = new Numbers(server);
  numbers.begin();
  await reader.has(10);
  await end(server, numbers);
  line.swallow();
  const again = await server.again();
  numbers.begin();
  await numbers.reach(numbers.last + 10);
  check((await reader.opened()) === 1, 'the page is back before the line is');
  line.mend();
  const since = Date.now();
  const isBack = reader.page.waitForFunction(() => window.opened > 1, null, { timeout: 0 });
  await within('the page is back', isBack);
  const took = Date.now() - since;
  await reader.has(numbers.last + 10);
  const outcome = await finish(numbers, reader);
  const got = await reader.got();
  line.close();
  await again.stop();
  return { outcome, got, took };
}

/** Ends in order. Numbers are published until then, and whatever comes too late is published to the next. */
const inOrder = (server) => server.stop();

/** Ends as a crash does, while nothing is on its way: the number that was would come twice. */
async function crash(server, numbers) {
  await numbers.pause();
  await server.kill();
}

async function withHistoryFile(use) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'heartwire-topics-'));
  try {
    return await use(['--history-file', path.join(folder, 'topics')]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A page of this kind that is left, and loaded again a moment later. */
async function reload(browser, kind) {
  const server = await Server.start(OPTIONS);
  const reader = await Reader.open(browser, server.url, kind);
  const numbers = new Numbers(server);
  numbers.begin();
  await reader.has(10);
  const since = Date.now();
  for (let count = 0; count < 3; count += 1) {
    await reader.page.goto('about:blank');
    await numbers.reach(numbers.last + 5);
    await reader.load();
    await reader.has(numbers.last);
  }
  const took = Date.now() - since;
  const outcome = await finish(numbers, reader);
  await server.stop();
  return { outcome, took };
}

/** The page of the guide, as it stands there but for the address, in a folder. */
function pageOfGuide(folder, address) {
  const guide = readFileSync(path.join(root, 'docs/topics-tour.md'), 'utf8');
  const [, page] = /```html\n(.*?)```/s.exec(guide);
  check(page.split('\n').length <= 16, 'the page of the guide is long');
  const file = path.join(folder, 'page.html');
  writeFileSync(file, page.replaceAll('127.0.0.1:9001', address));
  return file;
}

/** Each gives what the table is to say: `[what was measured, milliseconds, bound]`. */
export const TOPICS_SCENARIOS = {
  async 'topic, line silent for 5 s'(browser) {
    const { outcome, took } = await cutOff(browser, 'topics', silence);
    check(outcome === null, outcome);
    return ['up to date after the silence', took, 1_500];
  },

  async 'topic, line silent for 5 s, bare WebSocket (control)'(browser) {
    const { outcome, took } = await cutOff(browser, 'bare', silence);
    misses(outcome);
    return [`misses some: ${outcome}`, took, Infinity];
  },

  async 'topic, line reset three times'(browser) {
    const { outcome, took } = await cutOff(browser, 'topics', resets);
    check(outcome === null, outcome);
    return ['up to date after the last', took, 1_000];
  },

  async 'topic, line reset three times, bare WebSocket (control)'(browser) {
    const { outcome, took } = await cutOff(browser, 'bare', resets);
    misses(outcome);
    return [`misses some: ${outcome}`, took, Infinity];
  },

  async 'topic, server restarted, history saved'(browser) {
    const { outcome, took } = await withHistoryFile((options) => restart(browser, options, inOrder));
    check(outcome === null, outcome);
    return ['back after the line', took, 1_000];
  },

  async 'topic, server restarted, nothing saved (control)'(browser) {
    const { outcome, took } = await restart(browser, [], inOrder);
    misses(outcome);
    return [outcome, took, Infinity];
  },

  async 'topic, server killed'(browser) {
    const { got, took } = await withHistoryFile((options) => restart(browser, options, crash));
    const place = got.indexOf('lost');
    check(place >= 10, `it was not told: ${got}`);
    const [before, after] = [got.slice(0, place), got.slice(place + 1)];
    const wrong = fault(before, before.at(-1)) ?? fault(after, after.at(-1));
    check(wrong === null && after[0] > before.at(-1) + 1, `not one loss and no other gap: ${wrong}`);
    return ['told of one loss, and back', took, 1_000];
  },

  async 'topic, page loaded again, sessionStorage'(browser) {
    const { outcome, took } = await reload(browser, 'stored');
    check(outcome === null, outcome);
    return ['three times in', took, 5_000];
  },

  async 'topic, page loaded again, no storage (control)'(browser) {
    const { outcome, took } = await reload(browser, 'topics');
    misses(outcome);
    return [`misses some: ${outcome}`, took, Infinity];
  },

  async 'topic, page of the guide through a restart'(browser) {
    return withHistoryFile(async (options) => {
      const server = await Server.start([...OPTIONS, ...options]);
      const numbers = new Numbers(server, 'news');
      const page = await (await browser.newContext()).newPage();
      const errors = [];
      page.on('pageerror', (error) => errors.push(error.message));
      await page.goto(`file://${pageOfGuide(path.dirname(options[1]), server.address)}`);
      await within('the page is subscribed', subscribers(server, 1));
      numbers.begin();
      const shown = () => page.$$eval('li', (items) => items.map((item) => Number(item.textContent)));
      const shows = (number) => {
        const isThere = (number) => Number(document.querySelector('li:last-child')?.textContent) >= number;
        return within(`${number} on the page`, page.waitForFunction(isThere, number, { timeout: 0 }));
      };
      await shows(10);
      await inOrder(server);
      const again = await server.again();
      const since = Date.now();
      await shows(numbers.last + 10);
      const took = Date.now() - since;
      await numbers.pause();
      await shows(numbers.last);
      const wrong = fault(await shown(), numbers.last);
      check(wrong === null && errors.length === 0, `${wrong}, errors: ${errors}`);
      await again.stop();
      return ['shows ten more after its start', took, 3_000];
    });
  },

  async 'topics on the status page'(browser) {
    const server = await Server.start([...OPTIONS, '--presence']);
    const page = await (await browser.newContext()).newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    const post = (name) => fetch(`${server.url}/topics/${encodeURIComponent(name)}`, { method: 'POST', body: 'x' });
    const hostile = '<img src=x onerror="document.title=1">\u202e';
    for (const name of [hostile, 'quiet']) check((await post(name)).ok, `${name} is refused`);
    for (let number = 0; number < 40; number += 1) await post(`busy ${number}`);
    const reader = await Reader.open(browser, server.url, 'topics');
    await page.goto(server.url);
    const until = (what, wanted, given) => within(what, page.waitForFunction(wanted, given, { timeout: 0 }));
    const rows = (count) => document.querySelectorAll('#topics tr').length === count;
    await until('30 topics are shown', rows, 30);
    check((await page.textContent('#topics-note')).includes('13 more are not'), await page.textContent('#topics-note'));
    const since = Date.now();
    await page.fill('#topics-filter', '<IMG');
    await until('the filter has effect', rows, 1);
    const took = Date.now() - since;
    const name = await page.textContent('#topics .name');
    check(name === '<img src=x onerror="document.title=1">\\u{202e}', `the name is shown as ${name}`);
    check((await page.$$('#topics img')).length === 0 && (await page.title()) !== '1', 'a name is taken for HTML');
    await page.fill('#topics-filter', 'numbers');
    await until('the other is shown', (title) => document.querySelector(`#topics [title="${title}"]`), 'numbers');
    await page.click('#topics .name');
    await until('its member is shown', () => document.querySelectorAll('.members li[data-state=alive]').length === 1);
    check((await page.textContent('.members li')).includes('silent for'), await page.textContent('.members li'));
    await reader.page.close();
    await until('it is gone', () => document.querySelectorAll('.members li').length === 0);
    check(errors.length === 0, `errors in the page: ${errors}`);
    await server.stop();
    return ['filtered', took, 1_000];
  },
};

/** Waits until a topic of the server has so many subscribers. */
async function subscribers(server, wanted) {
  const pattern = new RegExp(`^heartwire_subscriptions ${wanted}(\\.0)?$`, 'm');
  while (!pattern.test(await (await fetch(`${server.url}/metrics`)).text())) await sleep(PAUSE);
}
