// Many sockets of heartwire.js, without being told more than a URL. It prints what the Rust clients do: see
// program/src/main.rs.
//
//     node --experimental-websocket page.mjs ws://127.0.0.1:9001/ 100

import { createInterface } from 'node:readline';
import { HeartSocket } from '../../src/browser/heartwire.js';

const [url, count] = [process.argv[2], Number(process.argv[3])];
const outSince = new Map();
let gaps = [];
let connectedFirst = 0;

for (let number = 0; number < count; number += 1) {
  let isFirst = true;
  const socket = new HeartSocket(url);
  socket.onopen = () => {
    if (outSince.has(number)) gaps.push(performance.now() - outSince.get(number));
    outSince.delete(number);
    if (!isFirst) return;
    isFirst = false;
    connectedFirst += 1;
    if (connectedFirst % 100 === 0 || connectedFirst === count) console.log(`connected ${connectedFirst}`);
  };
  socket.onclose = () => {
    if (!isFirst && !outSince.has(number)) outSince.set(number, performance.now());
  };
}

for await (const _ of createInterface({ input: process.stdin })) {
  const out = [...outSince.values()].map((since) => performance.now() - since);
  console.log(['out', out.length, ...[...gaps, ...out].map(Math.round)].join(' '));
  gaps = [];
}
process.exit(0);
