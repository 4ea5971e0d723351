// Node `ws` as a client, with the heartbeat that its documentation shows: it pings every second, and terminates a
// connection whose last Ping was not answered.
//
// Usage: ws.js URL. It says "open", sends "hello", says "echo" when that has come back, closes, and says "closed CODE",
// after "terminated" if it gave up itself.

'use strict';

const WebSocket = require('ws');

const PING_INTERVAL = 1000;

const socket = new WebSocket(process.argv[2]);
let isAlive = true;

const beat = () => {
  if (!isAlive) {
    console.log('terminated');
    socket.terminate();
    return;
  }
  isAlive = false;
  socket.ping();
};

socket.on('open', () => {
  console.log('open');
  socket.send('hello');
  const timer = setInterval(beat, PING_INTERVAL);
  socket.on('close', () => clearInterval(timer));
});
socket.on('pong', () => (isAlive = true));
socket.on('message', (data) => {
  console.log(data.toString() === 'hello' ? 'echo' : 'other');
  socket.close(1000);
});
socket.on('error', () => {});
socket.on('close', (code) => console.log(`closed ${code}`));
