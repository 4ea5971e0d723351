// A server of topics by socket.io, as its documentation shows it: a topic is a room, and who comes back is given what it
// missed. It has no way to publish by HTTP, so the least that Node needs for that stands here. It ends with its
// standard input.

'use strict';

const { createServer } = require('node:http');
const { Server } = require('socket.io');

const PATH = '/topics/';

const http = createServer((request, response) => {
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    io.to(request.url.slice(PATH.length)).emit('message', Buffer.concat(parts).toString());
    response.writeHead(200, { 'Content-Length': 2 });
    response.end('{}');
  });
});
// A publisher keeps its connection, also if it pauses.
http.keepAliveTimeout = 600_000;

const io = new Server(http, {
  transports: ['websocket'],
  // As long as the others keep their history. Their number is not bounded.
  connectionStateRecovery: { maxDisconnectionDuration: 600_000 },
});
io.on('connection', (socket) => {
  socket.on('subscribe', (topic, reply) => {
    socket.join(topic);
    reply();
  });
});

http.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => console.log(`listening ${http.address().port}`));

process.stdin.resume().on('end', () => process.exit());
