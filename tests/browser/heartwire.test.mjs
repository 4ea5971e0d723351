// The timing of heartwire.js, with a clock of our own: nothing here waits.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Backoff, Heart, HeartSocket } from '../../src/page/heartwire.js';
import { fakeBrowser } from './fakes.mjs';

const POLICY = { interval: 20_000, timeout: 10_000, maxMissed: 3, probeTimeout: 5_000 };
const SETTINGS = 'heartwire {"connection":17,"leader":"server","interval":2000,"timeout":1000,"max_missed":2}';

// The heart.

test('a server that falls silent is dead after interval + maxMissed x timeout, and no earlier', () => {
  const heart = new Heart(POLICY, 0);
  const seen = [];
  for (let now = 0; now <= 50_000; now += 500) {
    for (let action = heart.poll(now); action !== 'wait'; action = heart.poll(now)) {
      seen.push([now, action]);
      if (action === 'ping') heart.pingSent(now);
      if (action === 'dead') break;
    }
  }
  const expected = [
    [20_000, 'ping'],
    [30_000, 'missed'],
    [30_000, 'ping'],
    [40_000, 'missed'],
    [40_000, 'ping'],
    [50_000, 'dead'],
  ];
  assert.deepEqual(seen.slice(0, 6), expected);
});

test('any sign of life just before the timeout forgets the misses', () => {
  const heart = new Heart(POLICY, 0);
  assert.equal(heart.poll(20_000), 'ping');
  heart.pingSent(20_000);
  assert.equal(heart.poll(29_999), 'wait');
  assert.equal(heart.poll(30_000), 'missed');
  assert.equal(heart.poll(30_000), 'ping');
  heart.pingSent(30_000);
  heart.life(39_999);
  assert.equal(heart.missed, 0);
  assert.equal(heart.poll(39_999), 'wait');
  assert.equal(heart.poll(40_000), 'ping', 'the schedule goes on');
});

test('a deadline that is noticed late is no miss, and a ping with a fresh timeout follows', () => {
  const heart = new Heart(POLICY, 0);
  heart.poll(20_000);
  heart.pingSent(20_000);
  assert.equal(heart.poll(3_600_000), 'ping', 'an hour of sleep');
  assert.equal(heart.missed, 0);
  heart.pingSent(3_600_000);
  assert.equal(heart.poll(3_609_999), 'wait');
  assert.equal(heart.poll(3_610_000), 'missed');
});

test('timers that are held to whole seconds hide nobody\'s death', () => {
  const heart = new Heart({ ...POLICY, interval: 1_000, timeout: 300 }, 0);
  const seen = [];
  for (let now = 1_000; seen.at(-1) !== 'dead' && now < 60_000; now += 1_000) {
    for (let action = heart.poll(now); action !== 'wait'; action = heart.poll(now)) {
      seen.push(action);
      if (action === 'ping') heart.pingSent(now);
      if (action === 'dead') break;
    }
  }
  assert.equal(seen.filter((action) => action === 'missed').length, 2);
  assert.equal(seen.at(-1), 'dead');
});

test('what still waits to be sent excuses the server', () => {
  const heart = new Heart(POLICY, 0);
  heart.poll(20_000);
  heart.pingSent(20_000);
  assert.equal(heart.poll(30_000, true), 'ping');
  assert.equal(heart.missed, 0);
});

test('beats that were slept through are skipped, and the schedule is kept', () => {
  const heart = new Heart(POLICY, 0);
  assert.equal(heart.poll(65_000), 'ping');
  heart.pingSent(65_000);
  heart.pong(65_001);
  assert.equal(heart.deadline, 80_000);
});

test('one miss is enough where the line was doubted', () => {
  const heart = new Heart(POLICY, 0);
  heart.probe();
  assert.equal(heart.poll(100), 'ping');
  heart.pingSent(100);
  assert.equal(heart.poll(5_099), 'wait');
  assert.equal(heart.poll(5_100), 'dead');
});

test('round-trip times follow RFC 6298, and only an answer that is clear is a sample', () => {
  const heart = new Heart(POLICY, 0);
  heart.pingSent(0);
  assert.equal(heart.pong(100), 100);
  heart.pingSent(1_000);
  assert.equal(heart.pong(1_180), 180);
  assert.deepEqual(heart.roundTrip, { last: 180, smoothed: 110, variation: 57.5, min: 100, samples: 2 });

  heart.pingSent(2_000);
  heart.pingSent(2_500);
  assert.equal(heart.pong(2_600), null, 'the answer to the first or to both');
  assert.equal(heart.roundTrip.samples, 2);
  heart.pingSent(99_000);
  assert.equal(heart.pong(99_050), 50, 'what was never answered is forgotten in time');
});

test('settings of a heart are in order, or refused by name', () => {
  for (const name of ['interval', 'timeout', 'probeTimeout']) {
    const message = new RegExp(name);
    for (const value of [NaN, '5000', null]) {
      assert.throws(() => new Heart({ ...POLICY, [name]: value }, 0), { name: 'TypeError', message });
    }
    for (const value of [0, -1, 0.5]) {
      assert.throws(() => new Heart({ ...POLICY, [name]: value }, 0), { name: 'RangeError', message });
    }
    assert.equal(new Heart({ ...POLICY, [name]: Infinity }, 0).policy[name], 2 ** 31 - 1);
  }
  for (const maxMissed of [0, 1.5, -1, NaN, Infinity, '3']) {
    assert.throws(() => new Heart({ ...POLICY, maxMissed }, 0), { name: 'RangeError', message: /maxMissed/ });
  }
});

// The backoff.

test('delays are drawn from zero to a limit that doubles, and begin anew after a connection that lasted', () => {
  const backoff = new Backoff({ first: 500, longest: 4_000, stableAfter: 10_000 });
  const limits = Array.from({ length: 6 }, () => backoff.nextDelay(1006, 1));
  assert.deepEqual(limits, [500, 1_000, 2_000, 4_000, 4_000, 4_000]);
  backoff.wasOpenFor(9_999);
  assert.equal(backoff.nextDelay(1006, 0), 0);
  assert.equal(backoff.nextDelay(1006, 0.5), 2_000);
  backoff.wasOpenFor(10_000);
  assert.equal(backoff.nextDelay(1006, 1), 500);
  assert.equal(backoff.nextDelay(1012, 0), 5_000, 'a restart');
  assert.equal(backoff.nextDelay(1013, 1), 30_000, 'overload');
  assert.throws(() => new Backoff({ first: -1 }), { name: 'RangeError' });
});

// The socket.

function connect(options = {}, protocols = []) {
  const browser = fakeBrowser();
  const socket = new HeartSocket('ws://fake/', protocols, { ...POLICY, ...options, environment: browser.environment });
  const events = [];
  for (const type of ['open', 'message', 'close', 'error', 'beat', 'missed', 'settings']) {
    socket.addEventListener(type, (event) => events.push(event));
  }
  const types = () => events.map((event) => event.type);
  return Object.assign(browser, { heart: socket, events, types });
}

function open(options, protocols) {
  const page = connect(options, protocols);
  page.socket.open();
  return page;
}

test('it looks like a WebSocket', () => {
  const page = connect({}, ['chat']);
  assert.deepEqual(page.socket.offered, ['chat', 'heartwire.v1']);
  assert.equal(page.heart.readyState, HeartSocket.CONNECTING);
  assert.throws(() => page.heart.send('too early'), { name: 'InvalidStateError' });
  assert.throws(() => page.heart.close(1001), { name: 'InvalidAccessError' });
  assert.throws(() => page.heart.close(1000, 'x'.repeat(124)), { name: 'SyntaxError' });

  const heard = [];
  page.heart.onmessage = (event) => heard.push('replaced');
  page.heart.onmessage = (event) => heard.push(event.data);
  page.heart.binaryType = 'arraybuffer';
  page.socket.open('chat');
  assert.equal(page.heart.readyState, page.heart.OPEN);
  assert.equal(page.heart.protocol, 'chat');
  assert.equal(page.socket.binaryType, 'arraybuffer');
  page.heart.send('hello');
  page.socket.receive('hello');
  assert.deepEqual(page.socket.sent, ['hello']);
  assert.deepEqual(heard, ['hello']);
  assert.equal(page.heart.heartbeat, null, 'chat was agreed upon, and not the heartbeat');
});

test('options that make no sense are refused before anything is dialed', () => {
  const wrong = [
    [{ interval: 0 }, RangeError],
    [{ interval: '20s' }, TypeError],
    [{ maxMissed: 0 }, RangeError],
    [{ connectTimeout: -1 }, RangeError],
    [{ closeTimeout: NaN }, TypeError],
    [{ outboxSize: -1 }, RangeError],
    [{ outboxSize: NaN }, RangeError],
    [{ heartbeat: 'fast' }, TypeError],
    [{ reconnect: { first: NaN } }, TypeError],
  ];
  for (const [options, error] of wrong) {
    const { environment, sockets } = fakeBrowser();
    assert.throws(() => new HeartSocket('ws://fake/', [], { ...options, environment }), error, JSON.stringify(options));
    assert.equal(sockets.length, 0);
  }
});

test('durations longer than timers can wait are as good as never', () => {
  const page = open({ interval: Infinity, connectTimeout: Infinity, closeTimeout: 2 ** 40 });
  page.clock.advance(24 * 86_400_000);
  assert.deepEqual(page.socket.sent, []);
  assert.ok(page.clock.longest < 2 ** 31);
  page.socket.end();
  assert.ok(page.clock.longest < 2 ** 31);
});

test('settings of the server that make no sense are left aside', () => {
  const page = open({ interval: undefined, timeout: undefined, maxMissed: undefined, probeTimeout: undefined });
  page.socket.receive('heartwire {"leader":"server","interval":0,"timeout":"soon","max_missed":-1}');
  const { interval, timeout, maxMissed } = page.heart.heartbeat;
  assert.deepEqual([interval, timeout, maxMissed], [20_000, 10_000, 3]);
  page.clock.advance(20_000);
  assert.deepEqual(page.socket.sent, ['ping next=20000']);
});

test('a URL that is none is thrown at once', () => {
  const { environment } = fakeBrowser();
  assert.throws(() => new HeartSocket('a b', [], { environment }), { name: 'SyntaxError' });
});

test('the settings are learnt from the first message, and neither they nor pongs reach the page', () => {
  const page = open({ interval: undefined, timeout: undefined, maxMissed: undefined, probeTimeout: undefined });
  page.socket.receive(SETTINGS);
  assert.equal(page.heart.settings.connection, 17);
  assert.deepEqual(page.heart.heartbeat, { interval: 2_000, timeout: 1_000, maxMissed: 2, probeTimeout: 1_000 });
  page.clock.advance(2_000);
  assert.deepEqual(page.socket.sent, ['ping next=2000']);
  page.clock.advance(30);
  page.socket.receive('pong');
  assert.equal(page.heart.roundTrip.last, 30);
  page.socket.receive(SETTINGS);
  assert.deepEqual(page.types(), ['open', 'settings', 'beat', 'message'], 'only the first message can be the settings');
});

test('where the server waits for our beat, it gets it twice in its window', () => {
  const page = open({ interval: undefined, timeout: undefined });
  page.socket.receive('heartwire {"connection":1,"leader":"peer","expect":5000,"max_missed":3,"timeout":1000}');
  assert.equal(page.heart.heartbeat.interval, 2_500);
});

test('a line that is silent is given up within the bound, and dialed again after a delay with jitter', () => {
  const page = open();
  const dead = page.socket;
  page.clock.advance(49_999);
  assert.deepEqual(page.types(), ['open', 'missed', 'missed']);
  assert.equal(page.heart.missed, 2);
  page.clock.advance(1);
  const close = page.events.at(-1);
  assert.deepEqual([close.code, close.reason, close.wasClean], [1006, 'heartbeat lost', false]);
  assert.deepEqual([close.willReconnect, close.retryIn], [true, 250]);
  assert.equal(dead.closed.code, 4000);
  assert.equal(page.heart.readyState, HeartSocket.CONNECTING);

  dead.receive('too late');
  dead.end();
  page.clock.advance(249);
  assert.equal(page.sockets.length, 1);
  page.clock.advance(1);
  assert.equal(page.sockets.length, 2);
  page.socket.open();
  assert.deepEqual(page.types(), ['open', 'missed', 'missed', 'close', 'open']);
});

test('a machine that slept does not take its line for dead', () => {
  const page = open();
  page.clock.advance(20_000);
  page.clock.jump(8 * 3_600_000);
  assert.deepEqual(page.types(), ['open']);
  assert.equal(page.socket.sent.length, 2, 'the line is asked anew');
  page.socket.receive('pong');
  page.clock.advance(10_000);
  assert.deepEqual(page.types(), ['open', 'beat']);
});

test('messages that have come are looked at before anything is judged', () => {
  const page = open();
  page.clock.advance(29_999);
  // The page is busy until the deadline, and the message stands behind the timer.
  page.clock.setTimeout(() => page.socket.receive('here I am'), 1);
  page.clock.advance(1);
  assert.deepEqual(page.types(), ['open', 'message']);
});

test('only one attempt is made at a time, whatever the page is told meanwhile', () => {
  const page = connect();
  for (const type of ['online', 'pageshow', 'online']) page.happens(type, { persisted: true });
  page.show('visible');
  assert.equal(page.sockets.length, 1);
  page.socket.open();
  page.socket.end();
  page.happens('online');
  page.happens('online');
  assert.equal(page.sockets.length, 2, 'at once, and once');
  page.clock.advance(9_999);
  assert.equal(page.sockets.length, 2);
});

test('an attempt that hangs is given up', () => {
  const page = connect();
  page.clock.advance(10_000);
  assert.deepEqual(page.types(), ['error', 'close']);
  assert.equal(page.events.at(-1).reason, 'not connected in time');
  page.clock.advance(250);
  assert.equal(page.sockets.length, 2);
});

test('online, shown again and back from the cache ask the line at once, which has to answer soon', () => {
  const happenings = [
    (page) => page.happens('online'),
    (page) => page.show('visible'),
    (page) => page.happens('pageshow', { persisted: true }),
  ];
  for (const happening of happenings) {
    const page = open();
    happening(page);
    assert.deepEqual(page.socket.sent, ['ping next=20000']);
    page.clock.advance(4_999);
    assert.equal(page.heart.readyState, HeartSocket.OPEN);
    page.clock.advance(1);
    assert.equal(page.events.at(-1).reason, 'heartbeat lost');
  }
});

test('a hidden page announces that its beats may be late', () => {
  const page = open();
  page.show('hidden');
  assert.deepEqual(page.socket.sent, ['ping next=60000']);
  page.show('visible');
  assert.equal(page.socket.sent.at(-1), 'ping next=20000');
});

test('into a line that was quiet for too long a message goes when that has shown life', () => {
  const page = open();
  // Timers are held back, as in a frozen page.
  page.clock.time += 31_000;
  page.heart.send('one');
  page.heart.send('two');
  assert.deepEqual(page.socket.sent, ['ping next=20000']);
  assert.equal(page.heart.bufferedAmount, 6);
  page.socket.receive('pong');
  assert.deepEqual(page.socket.sent, ['ping next=20000', 'one', 'two']);
});

test('what waited in vain goes with the next connection if there is room, and is told if not', () => {
  for (const [outboxSize, unsent, sent] of [[0, 2, []], [3, 1, ['one']], [100, 0, ['one', 'two']]]) {
    const page = open({ outboxSize });
    page.clock.time += 31_000;
    page.heart.send('one');
    page.heart.send('two');
    page.socket.end();
    assert.equal(page.events.at(-1).unsent, unsent);
    page.clock.advance(250);
    page.socket.open();
    assert.deepEqual(page.socket.sent, sent);
  }
});

test('what is sent into a socket that is closing is not lost', () => {
  const page = open({ outboxSize: 100 });
  page.socket.readyState = 2;
  page.heart.send('one');
  page.socket.end(1001);
  page.clock.advance(250);
  page.socket.open();
  assert.deepEqual(page.socket.sent, ['one']);

  const without = open();
  without.socket.readyState = 2;
  without.heart.send('one');
  without.socket.end(1001);
  assert.equal(without.events.at(-1).unsent, 1);
});

test('the outbox keeps bytes as they were', () => {
  const page = connect({ outboxSize: 100 });
  const bytes = new Uint8Array([1, 2, 3, 4]);
  page.heart.send(bytes.subarray(1, 3));
  page.heart.send(bytes.buffer);
  page.heart.send(17);
  bytes.fill(9);
  page.socket.open();
  assert.deepEqual(page.socket.sent, [new Uint8Array([2, 3]), new Uint8Array([1, 2, 3, 4]).buffer, '17']);
});

test('the outbox leaves before what listeners send', () => {
  const page = connect({ outboxSize: 100 });
  page.heart.send('first');
  page.heart.onopen = () => page.heart.send('second');
  page.socket.open();
  assert.deepEqual(page.socket.sent, ['first', 'second']);
});

test('the outbox survives a socket that throws', () => {
  const page = connect({ outboxSize: 100 });
  page.heart.send('one');
  page.heart.send('two');
  const { socket } = page;
  const send = socket.send.bind(socket);
  socket.send = (data) => {
    if (data === 'two') throw new Error('no room');
    send(data);
  };
  socket.open();
  page.heart.send('three');
  assert.deepEqual(socket.sent, ['one']);
  const error = page.events.find(({ type }) => type === 'error');
  assert.equal(error.error.message, 'no room');
  assert.equal(page.heart.bufferedAmount, 8);
  socket.send = send;
  socket.receive('anything');
  assert.deepEqual(socket.sent, ['one', 'two', 'three']);
});

test('an outbox keeps the order and its limit', () => {
  const page = connect({ outboxSize: 8 });
  page.heart.send('one');
  page.heart.send(new Uint8Array(5));
  assert.throws(() => page.heart.send('!'), { name: 'InvalidStateError' });
  page.socket.open();
  assert.deepEqual(page.socket.sent, ['one', new Uint8Array(5)]);
});

test('a page that is left closes, and comes back when it is shown again', () => {
  const page = open();
  page.happens('pagehide');
  assert.deepEqual(page.socket.closed, { code: 1000, reason: 'page left' });
  assert.equal(page.events.at(-1).retryIn, null);
  page.clock.advance(3_600_000);
  assert.equal(page.sockets.length, 1);
  page.happens('pageshow', { persisted: true });
  assert.equal(page.sockets.length, 2);
});

test('close is for good, and leaves nothing behind', () => {
  const page = open();
  page.heart.close(3001, 'done');
  assert.equal(page.heart.readyState, HeartSocket.CLOSING);
  page.socket.receive('a last word');
  page.socket.end(3001, 'done');
  assert.deepEqual(page.types(), ['open', 'message', 'close']);
  assert.deepEqual([page.events.at(-1).code, page.events.at(-1).willReconnect], [3001, false]);
  page.happens('online');
  assert.equal(page.clock.pending, 0);
  assert.equal(page.sockets.length, 1);
  page.heart.send('discarded, as by a WebSocket');
});

test('close does not wait for a dead line for ever', () => {
  const page = open();
  page.heart.close();
  page.clock.advance(5_000);
  assert.equal(page.heart.readyState, HeartSocket.CLOSED);
  assert.equal(page.events.at(-1).code, 1006);
});

test('close between two connections ends the waiting', () => {
  const page = open();
  page.socket.end();
  page.heart.close();
  assert.equal(page.heart.readyState, HeartSocket.CLOSED);
  assert.equal(page.clock.pending, 0);
});

test('a listener may close at any event', () => {
  for (const type of ['open', 'missed', 'beat', 'settings', 'message']) {
    const page = connect();
    page.heart.addEventListener(type, () => page.heart.close());
    page.socket.open();
    if (page.heart.readyState === HeartSocket.OPEN) page.socket.receive(SETTINGS);
    if (page.heart.readyState === HeartSocket.OPEN) page.socket.receive('hello');
    if (page.heart.readyState === HeartSocket.OPEN && type === 'beat') page.socket.receive('pong');
    page.clock.advance(60_000);
    assert.equal(page.heart.readyState, HeartSocket.CLOSED, type);
    assert.equal(page.sockets.length, 1, type);
    assert.equal(page.clock.pending, 0, type);
  }
});

test('what would come up again is not tried again', () => {
  for (const code of [1002, 1003, 1007, 1008, 1009, 1010]) {
    const page = open();
    page.socket.end(code);
    assert.equal(page.heart.readyState, HeartSocket.CLOSED, String(code));
  }
  for (const code of [1000, 1001, 1006, 1011, 1012, 4000]) {
    const page = open();
    page.socket.end(code);
    assert.equal(page.heart.readyState, HeartSocket.CONNECTING, String(code));
  }
  const once = open({ reconnect: false });
  once.socket.end();
  assert.equal(once.heart.readyState, HeartSocket.CLOSED);
});

test('a URL may be asked for again at each attempt, and that may fail', () => {
  const { environment, clock, sockets } = fakeBrowser();
  const urls = ['ws://fake/1', 'not a url', 'ws://fake/2'];
  const heart = new HeartSocket(() => urls.shift(), [], { heartbeat: 'off', environment });
  sockets[0].end();
  clock.advance(250);
  assert.equal(heart.readyState, HeartSocket.CONNECTING);
  clock.advance(500);
  assert.equal(heart.url, 'ws://fake/2');
});

test('heartbeats may be plain, or off', () => {
  const plain = connect({ heartbeat: 'plain' });
  assert.deepEqual(plain.socket.offered, []);
  plain.socket.open('');
  plain.clock.advance(20_000);
  assert.deepEqual(plain.socket.sent, ['ping next=20000']);

  const off = connect({ heartbeat: 'off' });
  off.socket.open('');
  off.clock.advance(3_600_000);
  off.socket.receive('pong');
  assert.deepEqual(off.socket.sent, []);
  assert.deepEqual(off.types(), ['open', 'message']);

  const own = open({ heartbeat: 'off' }, ['heartwire.v1']);
  own.socket.end();
  own.clock.advance(250);
  own.socket.open();
  assert.equal(own.sockets.length, 2);
  assert.equal(own.heart.readyState, HeartSocket.OPEN);
});

// Servers that do not know heartwire.v1.

test('an attempt that fails is made once more without the offer, and that is kept until the next loss', () => {
  const page = connect({}, ['chat']);
  page.socket.end();
  assert.deepEqual(page.sockets.map(({ offered }) => offered), [['chat', 'heartwire.v1'], ['chat']]);
  page.socket.open('chat');
  assert.deepEqual(page.types(), ['open']);
  assert.equal(page.heart.heartbeat, null);
  page.socket.end();
  page.clock.advance(250);
  assert.deepEqual(page.socket.offered, ['chat', 'heartwire.v1']);
});

test('an attempt that fails both ways is one failure', () => {
  const page = connect();
  page.socket.end();
  page.socket.onerror();
  page.socket.end();
  assert.deepEqual(page.types(), ['error', 'close']);
  page.clock.advance(250);
  assert.equal(page.sockets.length, 3);
  assert.deepEqual(page.socket.offered, ['heartwire.v1']);
});

test('a server that was back between the two is offered the heartbeat once more', () => {
  const page = open();
  page.socket.end();
  page.clock.advance(250);
  page.socket.end();
  assert.deepEqual(page.socket.offered, []);
  page.socket.open('');
  assert.deepEqual(page.socket.offered, ['heartwire.v1']);
  assert.equal(page.sockets.at(-2).closed.code, 4000);
  assert.deepEqual(page.types(), ['open', 'close']);
  page.socket.open();
  assert.notEqual(page.heart.heartbeat, null);

  // Another server in its place, which does not know it.
  page.socket.end();
  page.clock.advance(500);
  page.socket.end();
  page.socket.open('');
  page.socket.end();
  page.socket.open('');
  assert.equal(page.heart.readyState, HeartSocket.OPEN);
  assert.equal(page.heart.heartbeat, null);
});

test('who closes between the two attempts is let go', () => {
  const page = connect();
  page.heart.close();
  page.socket.end();
  assert.equal(page.sockets.length, 1);
  assert.equal(page.heart.readyState, HeartSocket.CLOSED);
});
