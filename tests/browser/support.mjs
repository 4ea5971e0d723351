// The program, a line that can be cut, and Chromium, as the scenarios use them. Every wait is for an event and has a
// ceiling.

import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import http from 'node:http';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';

export const root = path.resolve(import.meta.dirname, '../..');
const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');
const tools = path.resolve(process.env.TOOLS ?? path.join(target, 'tools'), 'node/browser');

/** Longer than anything takes on the slowest machine. */
export const CEILING = 30_000;

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Gives what `promise` gives, or fails when the ceiling is reached. */
export function within(what, promise, ceiling = CEILING) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ceiling / 1_000} s`)), ceiling);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export function check(condition, message) {
  if (!condition) throw new Error(message);
}

export function build() {
  const options = ['--quiet', '--locked', '--release', '--bins', '--example', 'push'];
  execFileSync('cargo', ['build', ...options], { cwd: root, stdio: 'inherit' });
}

/** What has been started and must not outlive us. */
const children = new Set();

/** A running `heartwire`. */
export class Server {
  static async start(options = [], address = '127.0.0.1:0', program = 'heartwire') {
    const server = new Server(options, address, program);
    const line = await within('the server listens', server.stdout.find((text) => /wss?:\/\//.test(text)));
    [, server.secure, server.address] = /ws(s?):\/\/(\S+)/.exec(line);
    server.url = `http${server.secure}://${server.address}`;
    return server;
  }

  constructor(options, address, program) {
    Object.assign(this, { options, program });
    const stdio = ['ignore', 'pipe', 'pipe'];
    this.child = spawn(path.join(target, 'release', program), [address, ...options], { stdio });
    children.add(this.child);
    this.ended = new Promise((resolve) => this.child.once('exit', resolve));
    this.ended.then(() => children.delete(this.child));
    this.stdout = new Lines(this.child.stdout);
    this.log = new Lines(this.child.stderr);
  }

  /** As a crash or a power cut ends it. */
  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  /** Another one in its place. */
  again() {
    return Server.start(this.options, this.address, this.program);
  }

  async stop() {
    this.child.kill('SIGCONT');
    this.child.kill('SIGTERM');
    await within('the server ends', this.ended);
  }
}

class Lines {
  lines = [];
  #waiting = [];

  constructor(stream) {
    readline.createInterface({ input: stream }).on('line', (line) => {
      this.lines.push(line);
      this.#waiting = this.#waiting.filter((look) => !look(line));
    });
  }

  /** The first line from now or before that is wanted. */
  find(isWanted) {
    const found = this.lines.find(isWanted);
    if (found !== undefined) return Promise.resolve(found);
    return new Promise((resolve) => {
      this.#waiting.push((line) => isWanted(line) && (resolve(line), true));
    });
  }

  async with(...parts) {
    const found = this.find((line) => parts.every((part) => line.includes(part)));
    return within(`a line with ${JSON.stringify(parts)} in ${JSON.stringify(this.lines)}`, found);
  }
}

/** A server of WebSockets that knows no subprotocol, and never says anything. */
export class StrangeServer {
  static async start() {
    const server = new StrangeServer();
    const heartwire = readFileSync(path.join(root, 'src/browser/heartwire.js'));
    server.#http = http.createServer((request, response) => {
      response.setHeader('Content-Type', request.url === '/heartwire.js' ? 'text/javascript' : 'text/plain');
      response.end(request.url === '/heartwire.js' ? heartwire : 'ok');
    });
    server.#http.on('upgrade', (request, socket) => {
      const key = `${request.headers['sec-websocket-key']}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`;
      const accept = createHash('sha1').update(key).digest('base64');
      const head = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}`;
      socket.on('error', () => {});
      socket.write(`HTTP/1.1 101 Switching Protocols\r\n${head}\r\n\r\n`);
    });
    await new Promise((resolve) => server.#http.listen(0, '127.0.0.1', resolve));
    server.url = `http://127.0.0.1:${server.#http.address().port}`;
    return server;
  }

  #http;

  close() {
    this.#http.close();
    this.#http.closeAllConnections();
  }
}

/**
 * A proxy whose line can be cut without a word to either end: what comes in is neither passed on nor refused. Or it is
 * swallowed, as by a network that takes packets and delivers none. `up` and `down` are the most bytes that it takes in a
 * second, from the page and from the server.
 */
export class Line {
  static async to(server, { up = Infinity, down = Infinity } = {}) {
    const line = new Line();
    Object.assign(line, { up, down });
    const port = Number(server.address.split(':').at(-1));
    line.listener = net.createServer((near) => line.#join(near, net.connect(port, '127.0.0.1')));
    await new Promise((resolve) => line.listener.listen(0, '127.0.0.1', resolve));
    line.url = `http${server.secure}://127.0.0.1:${line.listener.address().port}`;
    return line;
  }

  #ends = new Set();
  #isCut = false;
  #isSwallowing = false;
  /** Of connections that have lost bytes, which therefore must not go on. */
  #holed = new Set();

  #join(near, far) {
    for (const [from, to, rate] of [[near, far, this.up], [far, near, this.down]]) {
      this.#ends.add(from);
      if (this.#isCut) from.pause();
      if (this.#isSwallowing) this.#holed.add(from);
      // When the line will have carried what it has taken.
      let freeAt = 0;
      from.on('data', (chunk) => {
        if (this.#holed.has(from)) return;
        to.write(chunk);
        if (rate === Infinity) return;
        freeAt = Math.max(freeAt, Date.now()) + (chunk.length / rate) * 1_000;
        from.pause();
        setTimeout(() => this.#isCut || from.resume(), freeAt - Date.now());
      });
      const isMute = () => this.#isCut || this.#holed.has(from);
      from.on('end', () => isMute() || to.end());
      from.on('error', () => isMute() || to.destroy());
      from.on('close', () => {
        this.#ends.delete(from);
        this.#holed.delete(from);
      });
    }
  }

  cut() {
    this.#isCut = true;
    for (const end of this.#ends) end.pause();
  }

  /** Whatever is sent from now on is taken, and lost. */
  swallow() {
    this.#isSwallowing = true;
    this.#holed = new Set(this.#ends);
  }

  /** The line is back. Connections that have lost something are reset, as by a router that has forgotten them. */
  mend() {
    this.#isCut = false;
    this.#isSwallowing = false;
    for (const end of this.#holed) end.resetAndDestroy();
    for (const end of this.#ends) end.resume();
  }

  /** All connections are reset. */
  reset() {
    for (const end of this.#ends) end.resetAndDestroy();
  }

  close() {
    this.listener.close();
    for (const end of this.#ends) end.destroy();
  }
}

const ARGUMENTS = createRequire(import.meta.url)('../support/chromium.json');

/** These of playwright would keep hidden pages from being hidden. */
const NOT_THESE = [
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
];

/** Why there is no browser; `null` if there is one. */
export function missing() {
  const executable = process.env.CHROMIUM ?? '/usr/bin/chromium';
  if (!existsSync(executable)) return 'chromium is not installed';
  if (!existsSync(path.join(tools, 'node_modules/playwright-core'))) return 'playwright-core is not installed';
  if (spawnSync('openssl', ['version']).error) return 'openssl is not installed';
  return null;
}

/** Certificates for servers, in a folder that is removed at the end. */
export function certificates() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'heartwire-certificates-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  return JSON.parse(execFileSync('python3', ['-B', path.join(root, 'tests/support/certificates.py'), folder]));
}

/** A browser that accepts the certificate of one key, whoever has signed it, and otherwise those that all do. */
export function launch({ spki }) {
  const { chromium } = createRequire(path.join(tools, 'package.json'))('playwright-core');
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  const args = [...ARGUMENTS, `--ignore-certificate-errors-spki-list=${spki}`];
  return chromium.launch({ executablePath, args, ignoreDefaultArgs: NOT_THESE });
}

/** A tab that can really be hidden, with its timers held back: those of playwright always count as visible. */
export class Tab {
  #root;
  #target;
  #session;
  #last = 0;
  #waiting = new Map();

  static async open(browser, url) {
    const tab = new Tab();
    tab.#root = await browser.newBrowserCDPSession();
    tab.context = (await tab.#root.send('Target.createBrowserContext')).browserContextId;
    tab.#target = await tab.#create(url);
    const attached = await tab.#root.send('Target.attachToTarget', { targetId: tab.#target, flatten: false });
    tab.#session = attached.sessionId;
    tab.#root.on('Target.receivedMessageFromTarget', ({ message }) => {
      const { id, ...answer } = JSON.parse(message);
      tab.#waiting.get(id)?.(answer);
      tab.#waiting.delete(id);
    });
    return tab;
  }

  async #create(url) {
    const { targetId } = await this.#root.send('Target.createTarget', { url, browserContextId: this.context });
    return targetId;
  }

  /** Another tab comes to the front. */
  async hide() {
    const targetId = await this.#create('about:blank');
    await this.#root.send('Target.activateTarget', { targetId });
  }

  async show() {
    await this.#root.send('Target.activateTarget', { targetId: this.#target });
  }

  /** What a function gives that is run in the page; its promise is waited for. */
  async evaluate(run, ...given) {
    const id = (this.#last += 1);
    const expression = `(${run})(...${JSON.stringify(given)})`;
    const params = { expression, awaitPromise: true, returnByValue: true };
    const message = JSON.stringify({ id, method: 'Runtime.evaluate', params });
    const answered = new Promise((resolve) => this.#waiting.set(id, resolve));
    await this.#root.send('Target.sendMessageToTarget', { sessionId: this.#session, message });
    const { result, error } = await within('an answer of the tab', answered);
    check(!error && !result.exceptionDetails, JSON.stringify(error ?? result.exceptionDetails));
    return result.result.value;
  }

  async until(what, run, ...given) {
    const deadline = Date.now() + CEILING;
    while (!(await this.evaluate(run, ...given))) {
      check(Date.now() < deadline, `${what}: nothing within ${CEILING / 1_000} s`);
      await sleep(50);
    }
  }

  async close() {
    await this.#root.send('Target.disposeBrowserContext', { browserContextId: this.context });
  }
}

process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
});
