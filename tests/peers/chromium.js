// Headless Chromium: a page with a WebSocket. The browser answers Pings itself, and the page never learns of them.
//
// Usage: chromium.js URL. What a peer does is written in peer.py.

'use strict';

const { chromium } = require('playwright-core');
const ARGUMENTS = require('../support/chromium.json');
const { obey, say } = require('./peer.js');

/** Runs in the page. */
function connect(url) {
  const socket = new WebSocket(url);
  socket.binaryType = 'arraybuffer';
  window.socket = socket;
  window.socketClosed = new Promise((resolve) => socket.addEventListener('close', (event) => resolve(event.code)));
  return new Promise((resolve, reject) => {
    socket.addEventListener('open', () => resolve());
    socket.addEventListener('error', () => reject(new Error('the page cannot connect')));
  });
}

/** Runs in the page. */
async function echo({ isText, base64 }) {
  const expected = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  const sent = isText ? new TextDecoder().decode(expected) : expected;
  const arrived = new Promise((resolve) => {
    window.socket.addEventListener('message', (event) => resolve(event.data), { once: true });
  });
  window.socket.send(sent);
  const data = await arrived;
  if (isText) return data === sent;
  const bytes = new Uint8Array(data);
  return bytes.length === expected.length && bytes.every((byte, i) => byte === expected[i]);
}

async function main() {
  const url = process.argv[2];
  const { CHROMIUM: executablePath, CHROMIUM_TRUSTS: key } = process.env;
  const trust = key ? [`--ignore-certificate-errors-spki-list=${key}`] : [];
  const browser = await chromium.launch({ executablePath, args: [...ARGUMENTS, ...trust] });
  say('version', browser.version());
  const page = await browser.newPage();
  // A page of the server's own origin.
  await page.goto(new URL('/healthz', url.replace(/^ws/, 'http')).href);
  await page.evaluate(connect, url);
  const closed = page.evaluate(() => window.socketClosed);
  await obey({
    // A page has no say in how its messages are cut into frames.
    echo: ({ isText, parts }) =>
      parts.length > 1 ? undefined : page.evaluate(echo, { isText, base64: parts[0].toString('base64') }),
    close: () => page.evaluate(() => window.socket.close(1000)),
    closed,
  });
  await browser.close();
}

main();
