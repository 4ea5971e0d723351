// Several nodes that share a Redis, on the status page of one of them, in Chromium.

import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';

import { check, Server, sleep, within } from './support.mjs';

/** After how long a node that says nothing is lost: 5 s, and 3 x 2 s. */
const BOUND = 11_000;

/** A Redis that keeps nothing. */
class Redis {
  static isInstalled() {
    return !spawnSync('redis-server', ['--version']).error;
  }

  constructor() {
    this.folder = mkdtempSync(path.join(os.tmpdir(), 'heartwire-redis-'));
    this.socket = path.join(this.folder, 'redis.sock');
    const options = ['--port', '0', '--unixsocket', this.socket, '--save', '', '--dir', this.folder];
    this.child = spawn('redis-server', options, { stdio: 'ignore' });
    this.ended = new Promise((resolve) => this.child.once('exit', resolve));
    process.on('exit', () => this.child.kill('SIGKILL'));
  }

  node() {
    return Server.start(['--mode', 'topics', '--presence', '--backplane', `unix://${this.socket}`]);
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const SCENARIOS = {
  async 'nodes on the status page'(browser) {
    const redis = new Redis();
    const [one, other] = [await redis.node(), await redis.node()];
    const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 } })).newPage();
    const errors = [];
    page.on('pageerror', (error) => errors.push(error.message));
    page.on('console', (message) => message.type() === 'error' && errors.push(message.text()));
    await page.goto(one.url);
    const until = (what, wanted, given) => within(what, page.waitForFunction(wanted, given, { timeout: 0 }));
    const states = (wanted) => {
      const rows = [...document.querySelectorAll('#nodes tr')];
      return rows.map(({ dataset }) => dataset.state).join() === wanted;
    };
    await until('both are alive', states, 'alive,alive');
    await other.log.with('connected');
    const says = async (selector, ...parts) => {
      const text = await page.innerText(selector);
      check(parts.every((part) => text.includes(part)), `${selector} says ${text}`);
    };
    await says('#nodes tr:nth-child(1)', one.address, 'this server', 'alive');
    await says('#nodes tr:nth-child(2)', other.address, 'silent for', 'alive');
    await says('#backplane', 'Redis connected');
    await says('#nodes-note', redis.socket, 'round trip', 'this server has all messages', '0 messages wait');
    await fits(page);

    const since = Date.now();
    await other.kill();
    await until('it is in doubt', states, 'alive,missed');
    await until('it is lost', states, 'alive,dead');
    const took = Date.now() - since;
    await says('#nodes tr:nth-child(2)', other.address, 'lost');
    await redis.kill();
    await until('Redis is away', () => document.getElementById('backplane').textContent === 'Redis away');
    await until('it is behind', () => document.querySelector('#nodes td.behind.warn')?.textContent.includes('? for'));
    await says('#nodes-note', '1 outage', 'may lack the messages of the last', '1 other server was found dead');
    await fits(page);
    check(errors.length === 0, `errors in the page: ${errors}`);
    await one.stop();
    return ['a killed node is lost', took, BOUND];
  },
};

/** Nothing of the page is beyond its right edge, however narrow it is, nor is a figure of the table cut off. */
async function fits(page) {
  const { width, height } = page.viewportSize();
  for (const narrow of [320, 400, 700, 1000, width]) {
    await page.setViewportSize({ width: narrow, height });
    await sleep(100);
    const beyond = await page.evaluate(() => {
      const isCut = ({ scrollWidth, clientWidth }) => scrollWidth > clientWidth + 1;
      const cut = [...document.querySelectorAll('#nodes td.number')].filter(isCut);
      const texts = cut.map(({ textContent }) => textContent);
      return isCut(document.documentElement) ? ['the page', ...texts] : texts;
    });
    check(beyond.length === 0, `at ${narrow} pixels too wide: ${beyond}`);
  }
}

/** Those that can run here. */
export function nodesScenarios() {
  if (Redis.isInstalled()) return SCENARIOS;
  console.log('skipped: nodes on the status page: redis-server is not installed');
  return {};
}
