// Headless Chromium: a page of the server with heartwire.js (subprotocol heartwire.v1), and in it a HeartSocket.
//
// Usage: page.js ORIGIN. It says "open", "beat" for each heartbeat that was answered, sends "hello" and then 5,000
// bytes of text, says "echo" for each that came back ("other" for anything else), and "closed CODE REASON".

'use strict';

const { chromium } = require('playwright-core');
const ARGUMENTS = require('../support/chromium.json');

/** Runs in the page. */
async function open() {
  const { HeartSocket } = await import('/heartwire.js');
  const socket = new HeartSocket(location.href.replace(/^http/, 'ws'), [], { reconnect: false });
  const messages = ['hello', 'compressed '.repeat(500).slice(0, 5_000)];
  socket.onopen = () => {
    console.log('open');
    messages.forEach((message) => socket.send(message));
  };
  socket.onmessage = ({ data }) => console.log(data === messages.shift() ? 'echo' : 'other');
  socket.addEventListener('beat', () => console.log('beat'));
  socket.onclose = ({ code, reason }) => console.log(`closed ${code} ${reason}`);
}

async function main() {
  const { CHROMIUM: executablePath } = process.env;
  const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
  const page = await browser.newPage();
  page.on('console', (message) => console.log(message.text()));
  await page.goto(process.argv[2]);
  await page.evaluate(open);
}

main();
