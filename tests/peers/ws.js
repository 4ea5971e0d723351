// Node `ws`.
//
// Usage: ws.js URL. What a peer does is written in peer.py.

'use strict';

const { once } = require('node:events');
const { setTimeout: sleep } = require('node:timers/promises');
const WebSocket = require('ws');
const { obey, say } = require('./peer.js');

/** In milliseconds, between fragments that are sent slowly. */
const PAUSE = 300;

async function echo(socket, { isText, parts, isSlow }) {
  const arrived = once(socket, 'message');
  for (const [i, part] of parts.entries()) {
    if (isSlow && i > 0) await sleep(PAUSE);
    socket.send(part, { binary: !isText, fin: i === parts.length - 1 });
  }
  const [data, isBinary] = await arrived;
  return isBinary === !isText && data.equals(Buffer.concat(parts));
}

async function main() {
  say('version', require('ws/package.json').version);
  const { DEFLATE } = process.env;
  const socket = new WebSocket(process.argv[2], DEFLATE ? { perMessageDeflate: JSON.parse(DEFLATE) } : {});
  const closed = once(socket, 'close').then(([code]) => code);
  await once(socket, 'open');
  await obey({ echo: (payload) => echo(socket, payload), close: () => socket.close(1000), closed });
}

main();
