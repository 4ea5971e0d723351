// A server of topics by socket.io, as its documentation shows it: a topic is a room, and who comes back is given what it
// missed. It has no way to publish by HTTP, so the least that Node needs for that stands here. It ends with its
// standard input. With --redis it is a node of several, which share what is sent by the adapter that --adapter names.

'use strict';

const { createServer } = require('node:http');
const { once } = require('node:events');
const { Server } = require('socket.io');

const PATH = '/topics/';

function option(name) {
  const at = process.argv.indexOf(name);
  return at < 0 ? undefined : process.argv[at + 1];
}

// ioredis, which socket.io's documentation prefers where connections are to be restored.
async function adapter(url) {
  const { Redis } = require('ioredis');
  const clients = [new Redis(url)];
  if (option('--adapter') === 'redis') {
    clients.push(clients[0].duplicate());
  }
  // They connect again by themselves.
  clients.forEach((client) => client.on('error', () => {}));
  await Promise.all(clients.map((client) => once(client, 'ready')));
  const name = option('--adapter') === 'redis' ? '@socket.io/redis-adapter' : '@socket.io/redis-streams-adapter';
  return require(name).createAdapter(...clients);
}

async function serve() {
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

  const redis = option('--redis');
  const io = new Server(http, {
    transports: ['websocket'],
    // As long as the others keep their history. Their number is not bounded, but by the streams adapter, at 10,000.
    connectionStateRecovery: { maxDisconnectionDuration: 600_000 },
    ...(redis && { adapter: await adapter(redis) }),
  });
  io.on('connection', (socket) => {
    socket.on('subscribe', (topic, reply) => {
      socket.join(topic);
      reply();
    });
  });

  http.listen({ host: '127.0.0.1', port: 0, backlog: 4096 }, () => console.log(`listening ${http.address().port}`));
}

process.stdin.resume().on('end', () => process.exit());
serve();
