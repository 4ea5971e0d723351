// Node `ws`.
//
// Usage: ws.js URL. What a peer does is written in peer.py.

'use strict';

const { once } = require('node:events');
const WebSocket = require('ws');
const { obey, say } = require('./peer.js');

const pattern = (length) => Buffer.from(Uint8Array.from({ length }, (_, i) => i % 251));

async function echo(socket, { parts, length }) {
  const arrived = once(socket, 'message');
  if (parts) {
    parts.forEach((part, i) => socket.send(part, { fin: i === parts.length - 1 }));
  } else {
    socket.send(pattern(length));
  }
  const [data, isBinary] = await arrived;
  return parts ? !isBinary && data.toString() === parts.join('') : isBinary && data.equals(pattern(length));
}

async function main() {
  say('version', require('ws/package.json').version);
  const socket = new WebSocket(process.argv[2]);
  const closed = once(socket, 'close').then(([code]) => code);
  await once(socket, 'open');
  await obey({ echo: (payload) => echo(socket, payload), close: () => socket.close(1000), closed });
}

main();
