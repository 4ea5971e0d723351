// Node `ws`, with the heartbeat that its documentation shows: whoever has not answered the last Ping is cut off.
//
// Usage: ws.js PORT. What a server does is written in server.py.

'use strict';

const { readFileSync } = require('node:fs');
const http = require('node:http');
const https = require('node:https');
const readline = require('node:readline');
const { WebSocketServer } = require('ws');

// It allows for no delay but this one, so it must not be too short for a busy machine.
const PING_INTERVAL = 1000;

const say = (...words) => console.log(words.join(' '));

const { DEFLATE, PARTS, TLS_CERT, TLS_KEY } = process.env;
const listener = TLS_CERT
  ? https.createServer({ cert: readFileSync(TLS_CERT), key: readFileSync(TLS_KEY) })
  : http.createServer();
const options = DEFLATE ? { perMessageDeflate: JSON.parse(DEFLATE) } : {};
const server = new WebSocketServer({ server: listener, ...options });

listener.listen(Number(process.argv[2]), '127.0.0.1', () => {
  say('version', require('ws/package.json').version);
  say(`listening on 127.0.0.1:${listener.address().port}`);
});

server.on('connection', (socket) => {
  say('open');
  socket.isAlive = true;
  socket.on('pong', () => {
    socket.isAlive = true;
    say('pong');
  });
  socket.on('message', (data, isBinary) => {
    const third = Math.floor(data.length / 3);
    const parts = PARTS ? [data.subarray(0, third), data.subarray(third, 2 * third), data.subarray(2 * third)] : [data];
    parts.forEach((part, i) => socket.send(part, { binary: isBinary, fin: i === parts.length - 1 }));
  });
  socket.on('error', () => {});
  socket.on('close', (code) => say('closed', code));
});

setInterval(() => {
  for (const socket of server.clients) {
    if (!socket.isAlive) {
      socket.terminate();
    } else {
      socket.isAlive = false;
      socket.ping();
    }
  }
}, PING_INTERVAL);

readline.createInterface({ input: process.stdin }).on('line', (line) => {
  if (line === 'close') server.clients.forEach((socket) => socket.close(1001));
});
