// Headless Chromium: a page of the server with heartwire.js (subprotocol heartwire.v1), and in it a HeartSocket
// to each of some URLs, which does not come back.
//
// Usage: page.js ORIGIN URL... Each socket, by its place, says "PLACE open", sends "hello", says "PLACE echo" when it has
// come back, closes, and says "PLACE closed CODE REASON".

'use strict';

const { chromium } = require('playwright-core');
const ARGUMENTS = require('../support/chromium.json');

/** Runs in the page. */
async function open(urls) {
  const { HeartSocket } = await import('/heartwire.js');
  for (const [place, url] of urls.entries()) {
    const socket = new HeartSocket(url, [], { reconnect: false });
    socket.onopen = () => {
      console.log(`${place} open`);
      socket.send('hello');
    };
    socket.onmessage = ({ data }) => {
      console.log(`${place} ${data === 'hello' ? 'echo' : 'other'}`);
      socket.close(1000);
    };
    socket.onclose = ({ code, reason }) => console.log(`${place} closed ${code} ${reason}`);
  }
}

async function main() {
  const [origin, ...urls] = process.argv.slice(2);
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ARGUMENTS });
  const page = await browser.newPage();
  page.on('console', (message) => console.log(message.text()));
  await page.goto(origin);
  await page.evaluate(open, urls);
}

main();
