// Servers by Node's `ws`, as its README shows them: an echo, or messages to all. They end with their standard input.
//
// Usage: node_ws.js [--broadcast] [--deflate LEVEL|defaults]

'use strict';

const { parseArgs } = require('node:util');
const { WebSocket, WebSocketServer } = require('ws');

const { values } = parseArgs({ options: { broadcast: { type: 'boolean' }, deflate: { type: 'string' } } });

function perMessageDeflate(deflate) {
  if (deflate === undefined || deflate === 'defaults') {
    return deflate !== undefined;
  }
  return {
    serverNoContextTakeover: true,
    clientNoContextTakeover: true,
    threshold: 1024,
    zlibDeflateOptions: { level: Number(deflate) },
  };
}

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: 0,
  backlog: 4096,
  perMessageDeflate: perMessageDeflate(values.deflate),
});

server.on('listening', () => console.log(`listening ${server.address().port}`));
server.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    if (!values.broadcast) {
      socket.send(data, { binary: isBinary });
      return;
    }
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) {
        client.send(data, { binary: isBinary });
      }
    }
  });
});

process.stdin.resume().on('end', () => process.exit());
