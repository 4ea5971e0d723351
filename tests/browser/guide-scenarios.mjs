// What stands in the guide for pages, in Chromium against the program: the page of docs/getting-started.md, and the pieces
// of docs/pages.md, docs/topics-page.md and docs/authentication.md, with what they take for granted before them.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

import { check, root, Server, sleep, within } from './support.mjs';

const TOPICS = ['--mode', 'topics', '--presence', '--allow-publish', 'chat'];

/** The blocks of a language on a page of the guide. */
function blocks(page, language) {
  const text = readFileSync(path.join(root, 'docs', page), 'utf8');
  const found = [...text.matchAll(new RegExp(`\`\`\`${language}\n(.*?)\`\`\``, 'gs'))].map(([, block]) => block);
  check(found.length > 0, `${page} has no ${language}`);
  return found;
}

/** Opens a tab, and fails with the first error in it. */
async function open(browser, url) {
  const page = await (await browser.newContext()).newPage();
  const failed = new Promise((_, reject) => page.on('pageerror', reject));
  failed.catch(() => {});
  await page.goto(url);
  const until = async (what, wanted, argument) =>
    within(what, Promise.race([page.waitForFunction(wanted, argument, { timeout: 0 }), failed]));
  return { page, until };
}

/** Runs code as a module in a page of the server. */
async function runs(browser, server, code) {
  const tab = await open(browser, `${server.url}/healthz`);
  await tab.page.addScriptTag({ type: 'module', content: code.replaceAll('127.0.0.1:9001', server.address) });
  return tab;
}

const publish = (server, text) => fetch(`${server.url}/topics/news`, { method: 'POST', body: text });

/** Waits until somebody is subscribed. */
async function subscribed(server) {
  const members = async () => (await fetch(`${server.url}/topics/news/presence`)).text();
  while (!(await members()).includes('alive')) await sleep(20);
}

/** Each gives what the table is to say: `[what was measured, milliseconds, bound]`. */
export const GUIDE_SCENARIOS = {
  async 'guide, page of getting started'(browser) {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'heartwire-page-'));
    const server = await Server.start(TOPICS);
    const [text] = blocks('getting-started.md', 'html');
    const file = path.join(folder, 'news.html');
    writeFileSync(file, text.replaceAll('127.0.0.1:9001', server.address));
    const { until } = await open(browser, pathToFileURL(file).href);
    const says = (text) => until(`the page says ${text}`, (text) => document.body.innerText.includes(text), text);
    await says('connected');
    await within('it is subscribed', subscribed(server));
    check((await publish(server, 'good morning')).ok, 'the news are refused');
    await says('good morning');
    await server.kill();
    await says('the server is gone');
    const again = await server.again();
    const since = Date.now();
    await within('it is subscribed again', subscribed(again));
    await says('connected');
    check((await publish(again, 'we are back')).ok, 'the news are refused after the restart');
    await says('we are back');
    const took = Date.now() - since;
    await again.stop();
    rmSync(folder, { recursive: true });
    return ['news again after its start', took, 3_000];
  },

  async 'guide, a HeartSocket'(browser) {
    const server = await Server.start();
    const [code] = blocks('pages.md', 'js');
    const since = Date.now();
    const { until } = await runs(browser, server, `console.log = (text) => (window.said = text);\n${code}`);
    await until('the echo', () => window.said === 'hello');
    await server.stop();
    return ['echoed', Date.now() - since, 3_000];
  },

  async 'guide, a token, and 4401'(browser) {
    const server = await Server.start();
    const [first, second] = blocks('authentication.md', 'js');
    const prelude = `import { HeartSocket } from '/heartwire.js';\nconst token = 'swordfish';\n`;
    const since = Date.now();
    const code = `${prelude}${first}${second}\nsocket.onopen = () => socket.onclose({ code: 4401 });\n`;
    const { page } = await runs(browser, server, code);
    await within('it goes to the login', page.waitForURL(/\/login$/, { timeout: 0, waitUntil: 'commit' }));
    await server.log.with('ended: closed by peer');
    await server.stop();
    return ['at the login', Date.now() - since, 3_000];
  },

  async 'guide, topics in a page'(browser) {
    const server = await Server.start(TOPICS);
    const prelude = `const [fetchToken, show] = [() => 'token', () => {}];\n`;
    const [code] = blocks('topics-page.md', 'js');
    const since = Date.now();
    const own = code.replace('wss://example.org/', 'ws://127.0.0.1:9001/');
    check(own !== code, 'the page of topics has another address');
    const { until } = await runs(browser, server, `${prelude}${own}\nwindow.published = position;\n`);
    await until('it has published', () => /^[0-9a-f]{16}:1$/.test(window.published));
    await server.stop();
    return ['published', Date.now() - since, 3_000];
  },

  async 'guide, code that fails (control)'(browser) {
    const server = await Server.start();
    const [code] = blocks('pages.md', 'js');
    const since = Date.now();
    const { until } = await runs(browser, server, code.replace('new HeartSocket', 'new NoSocket'));
    const outcome = await until('nothing', () => false).then(() => null, (error) => error.message);
    check(/NoSocket is not defined/.test(outcome), `it was not noticed: ${outcome}`);
    await server.stop();
    return ['noticed', Date.now() - since, Infinity];
  },
};

