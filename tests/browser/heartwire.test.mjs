// The timing of heartwire.js, with a clock of our own: nothing here waits.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Backoff, Heart, HeartSocket } from '../../src/browser/heartwire.js';
import { fakeBrowser } from './fakes.mjs';

const POLICY = { interval: 20_000, timeout: 10_000, maxMissed: 3, probeTimeout: 5_000 };
const SETTINGS = 'heartwire {"connection":17,"leader":"server","interval":2000,"timeout":1000,"max_missed":2}';

// The heart.

/** A heart with its line: what is known of it stays until a test changes it. */
function heartbeat(policy = POLICY) {
  const heart = new Heart(policy, 0);
  const line = { received: 0, taken: 0, unsent: 0 };
  /** What it asks for until it waits, given what has changed. Pings are sent. */
  const at = (now, { heldUp = 0, slept = 0, ...changes } = {}) => {
    Object.assign(line, changes);
    const asked = [];
    let evidence = { ...line, heldUp, slept };
    for (;;) {
      const action = heart.judge(now, evidence);
      if (action === 'wait') return asked;
      asked.push(action);
      if (action === 'ping') heart.pingSent(now);
      if (action === 'dead' || action === 'stalled') return asked;
      evidence = { ...line };
    }
  };
  return { heart, at, arrives: (now) => at(now, { received: line.received + 1 }) };
}

test('a server that falls silent is dead after interval + maxMissed x timeout, and no earlier', () => {
  const { at } = heartbeat();
  const seen = [];
  for (let now = 0; now <= 50_000; now += 500) seen.push(...at(now).map((action) => [now, action]));
  const expected = [
    [20_000, 'ping'],
    [30_000, 'missed'],
    [30_000, 'ping'],
    [40_000, 'missed'],
    [40_000, 'ping'],
    [50_000, 'dead'],
  ];
  assert.deepEqual(seen, expected);
});

test('any sign of life just before the timeout forgets the misses', () => {
  const { heart, at, arrives } = heartbeat();
  assert.deepEqual(at(20_000), ['ping']);
  assert.deepEqual(at(29_999), []);
  assert.deepEqual(at(30_000), ['missed', 'ping']);
  assert.deepEqual(arrives(39_999), []);
  assert.equal(heart.missed, 0);
  assert.deepEqual(at(40_000), ['ping'], 'the schedule goes on');
});

test('while an answer is due the heart is asked in quarters of the timeout', () => {
  const { heart, at, arrives } = heartbeat();
  assert.equal(heart.deadline, 20_000);
  at(20_000);
  assert.equal(heart.deadline, 22_500);
  at(22_500);
  assert.equal(heart.deadline, 25_000);
  arrives(25_000);
  assert.equal(heart.deadline, 40_000);
});

test('who was held up asks afresh, with a whole timeout', () => {
  const { heart, at } = heartbeat();
  at(20_000);
  assert.deepEqual(at(3_600_000, { heldUp: 3_577_500 }), ['ping'], 'an hour of sleep');
  assert.equal(heart.missed, 0);
  assert.deepEqual(at(3_609_999), []);
  assert.deepEqual(at(3_610_000), ['missed', 'ping']);
});

test('who is late by less than a quarter of the timeout was not held up', () => {
  const { at } = heartbeat();
  at(20_000);
  assert.deepEqual(at(32_500, { heldUp: 2_500 }), ['missed', 'ping']);
});

test('lateness is excused once in each silence', () => {
  const { heart, at, arrives } = heartbeat();
  at(20_000);
  assert.deepEqual(at(80_000, { heldUp: 57_500 }), ['ping']);
  assert.deepEqual(at(140_000, { heldUp: 57_500 }), ['missed', 'ping']);
  arrives(140_010);
  assert.equal(heart.missed, 0);
  assert.deepEqual(at(200_000, { heldUp: 40_000 }), ['ping'], 'another silence');
  assert.deepEqual(at(260_000, { heldUp: 57_500 }), ['missed', 'ping']);
  assert.deepEqual(at(320_000, { heldUp: 57_500 }), ['missed', 'ping']);
  assert.deepEqual(at(380_000, { heldUp: 57_500 }), ['dead']);
});

test('what lay there when we came back is no news: the line is asked all the same', () => {
  const { at } = heartbeat();
  at(20_000);
  assert.deepEqual(at(3_600_000, { heldUp: 3_577_500, received: 7 }), ['ping']);
  assert.deepEqual(at(3_610_000), ['missed', 'ping']);
});

test('a server that has given up a machine that slept has one short chance', () => {
  const asleep = { heldUp: 60_000, slept: 60_000 };
  const forsaken = heartbeat({ ...POLICY, serverPatience: 50_000 });
  assert.deepEqual(forsaken.at(10_000, asleep), ['ping']);
  assert.deepEqual(forsaken.at(14_999), []);
  assert.deepEqual(forsaken.at(15_000), ['dead']);

  const answered = heartbeat({ ...POLICY, serverPatience: 50_000 });
  answered.at(10_000, asleep);
  answered.arrives(14_999);
  assert.deepEqual(answered.at(15_000), []);
  assert.deepEqual(answered.at(20_000), ['ping']);
  assert.deepEqual(answered.at(30_000), ['missed', 'ping'], 'as before');

  const unknown = heartbeat();
  assert.deepEqual(unknown.at(10_000, asleep), ['ping']);
  assert.deepEqual(unknown.at(20_000), ['missed', 'ping'], 'nobody has told how long the server waits');
});

test('a ping that waits behind data has no clock until that has been taken, and no other joins it', () => {
  const { heart, at } = heartbeat();
  assert.deepEqual(at(20_000, { taken: 1_000, unsent: 9_000 }), ['ping']);
  for (let now = 22_500; now < 80_000; now += 2_500) {
    assert.deepEqual(at(now, { taken: 1_000 + now / 10, unsent: 9_000 }), [], String(now));
  }
  assert.equal(heart.missed, 0);
  assert.deepEqual(at(80_000, { taken: 10_000, unsent: 0 }), ['ping'], 'the beat that was due meanwhile');
  assert.deepEqual(at(89_999), []);
  assert.deepEqual(at(90_000), ['missed', 'ping']);
});

test('while what waits is being taken silence says nothing', () => {
  const { at } = heartbeat();
  at(20_000);
  let taken = 0;
  for (let now = 20_000; now < 100_000; now += 2_500) {
    assert.ok(!at(now, { taken: (taken += 1), unsent: 500 }).includes('missed'), String(now));
  }
});

test('what is taken at once excuses nobody', () => {
  const { at } = heartbeat();
  const seen = [];
  let taken = 0;
  for (let now = 0; now <= 50_000; now += 2_500) seen.push(...at(now, { taken: (taken += 100), unsent: 0 }));
  assert.equal(seen.at(-1), 'dead');
});

test('data of which nothing is taken while nothing arrives is a stall, after maxMissed x timeout', () => {
  const { at, arrives } = heartbeat();
  assert.deepEqual(at(20_000, { unsent: 9_000 }), ['ping']);
  for (let now = 22_500; now <= 40_000; now += 2_500) assert.deepEqual(at(now), []);
  assert.deepEqual(at(42_500, { taken: 1, unsent: 8_999 }), [], 'one byte is taken');
  for (let now = 45_000; now < 60_000; now += 2_500) assert.deepEqual(at(now), []);
  assert.deepEqual(arrives(60_000), [], 'one message arrives');
  for (let now = 62_500; now < 90_000; now += 2_500) assert.deepEqual(at(now), []);
  assert.deepEqual(at(90_000), ['stalled']);
});

test('a probe sends a ping at once, and makes the server dead no sooner than any other', () => {
  const { heart, at } = heartbeat();
  heart.probe();
  assert.deepEqual(at(100), ['ping']);
  assert.deepEqual(at(10_099), []);
  assert.deepEqual(at(10_100), ['missed', 'ping']);
  heart.probe();
  assert.deepEqual(at(20_099), ['ping']);
  assert.deepEqual(at(20_100), ['missed', 'ping'], 'doubting it again does not put it off');
  assert.deepEqual(at(30_100), ['dead']);
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
  assert.equal(heart.pong(2_650), null, 'the answer to the second');
  heart.pingSent(2_700);
  assert.equal(heart.pong(2_750), null, 'or this was');
  assert.equal(heart.roundTrip.samples, 2);
  heart.pingSent(3_200);
  assert.equal(heart.pong(3_250), 50, 'no answer to the others is to be expected any more');
  heart.pingSent(4_000);
  heart.pingSent(99_000);
  assert.equal(heart.pong(99_050), 50, 'what was never answered is forgotten in time');
});

test('what a ping waited behind data is no round trip', () => {
  const { heart, at } = heartbeat();
  at(20_000, { unsent: 9_000 });
  assert.equal(heart.pong(29_000), null);
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

test('who is sent away in its turn comes back at once, unless that was right after it came', () => {
  const backoff = new Backoff();
  const sentAway = () => backoff.nextDelay(1012, 1, 'restart; reconnect at once');
  for (let round = 0; round < 10; round += 1) {
    backoff.wasOpenFor(1_000);
    assert.equal(sentAway(), 0);
  }
  assert.equal(backoff.nextDelay(1006, 1), 500, 'the next server is not there');
  backoff.wasOpenFor(999);
  assert.equal(sentAway(), 1_000);
  backoff.wasOpenFor(10_000);
  assert.equal(backoff.nextDelay(1012, 1, 'restart'), 30_000, 'with all others');
  backoff.wasOpenFor(10_000);
  assert.equal(backoff.nextDelay(1001, 1, 'reconnect at once'), 500, 'no restart');
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
  const told = { interval: 2_000, timeout: 1_000, maxMissed: 2, probeTimeout: 1_000, serverPatience: 4_000 };
  assert.deepEqual(page.heart.heartbeat, told);
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
  assert.equal(page.heart.heartbeat.serverPatience, 183_000, 'we announce a minute while hidden');
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

test('timers that are held to whole seconds hide nobody\'s death', () => {
  const page = open({ interval: 1_000, timeout: 300 });
  for (let seconds = 0; seconds < 60 && !page.types().includes('close'); seconds += 1) page.clock.jump(1_000);
  assert.equal(page.events.at(-1).reason, 'heartbeat lost');
});

test('timers that fire once a minute hide nobody\'s death', () => {
  const page = open();
  for (let minutes = 0; minutes < 10 && !page.types().includes('close'); minutes += 1) page.clock.jump(60_000);
  assert.equal(page.events.at(-1).reason, 'heartbeat lost');
});

test('a machine that slept asks its line as soon as it looks', () => {
  const page = open();
  page.clock.advance(21_000);
  page.clock.sleep(8 * 3_600_000);
  page.clock.advance(1_500);
  assert.equal(page.socket.sent.length, 2, 'a fresh ping');
  page.heart.send('later');
  assert.equal(page.socket.sent.length, 2, 'the line is in doubt');
  page.clock.advance(9_999);
  assert.deepEqual(page.types(), ['open']);
});

test('a line that the server must have given up while the machine slept is soon lost', () => {
  const page = open();
  page.socket.receive('heartwire {"leader":"server","interval":20000,"timeout":10000,"max_missed":3}');
  page.clock.sleep(8 * 3_600_000);
  page.happens('online');
  page.clock.advance(4_999);
  assert.equal(page.heart.readyState, HeartSocket.OPEN);
  page.clock.advance(1);
  assert.equal(page.events.at(-1).reason, 'heartbeat lost');
});

test('a short sleep makes no line dead sooner', () => {
  const page = open();
  page.socket.receive('heartwire {"leader":"server","interval":20000,"timeout":10000,"max_missed":3}');
  page.clock.sleep(40_000);
  page.show('visible');
  page.clock.advance(29_999);
  assert.equal(page.heart.readyState, HeartSocket.OPEN);
});

test('what is sent right after a sleep waits until the line has shown life', () => {
  const page = open();
  page.clock.sleep(8 * 3_600_000);
  page.heart.send('hello');
  assert.deepEqual(page.socket.sent, ['ping next=20000']);
  page.socket.receive('pong');
  assert.deepEqual(page.socket.sent, ['ping next=20000', 'hello']);
});

test('an upload that the line is slow to take is not given up, though its answers are late', () => {
  const page = open();
  page.socket.isSlow = true;
  // It sends 3 KB in a second, the line takes 1 KB, and the server answers each ping when it gets it.
  let answered = 0;
  for (let seconds = 1; seconds <= 300; seconds += 1) {
    page.heart.send('x'.repeat(3_000));
    page.clock.advance(1_000);
    page.socket.drain(1_000);
    let end = 0;
    const through = page.socket.sent.filter((data) => (end += data.length) <= seconds * 1_000);
    const pings = through.filter((data) => data.startsWith('ping')).length;
    for (; answered < pings; answered += 1) page.socket.receive('pong');
  }
  assert.deepEqual(page.types().filter((type) => type !== 'beat'), ['open']);
  assert.ok(answered > 0);
});

test('a line that takes nothing of what waits is given up', () => {
  const page = open();
  page.socket.isSlow = true;
  page.heart.send('x'.repeat(3_000));
  page.clock.advance(49_999);
  assert.equal(page.heart.readyState, HeartSocket.OPEN);
  page.clock.advance(1);
  assert.equal(page.events.at(-1).reason, 'line stalled');
});

test('a page that is shown while a large message is arriving does not take its line for dead', () => {
  const page = open();
  page.clock.advance(19_000);
  page.show('visible');
  page.clock.advance(8_000);
  page.socket.receive('all of it');
  page.socket.receive('pong');
  page.clock.advance(1_000);
  assert.deepEqual(page.types(), ['open', 'message', 'beat']);
});

test('after one answer to several pings round trips are measured again', () => {
  const page = open({ interval: 2_000 });
  page.clock.advance(6_000);
  page.socket.receive('pong');
  assert.equal(page.heart.roundTrip, null, 'three pings were under way');
  for (let beats = 0; beats < 5; beats += 1) {
    page.clock.advance(1_000);
    page.clock.advance(1_000);
    page.socket.receive('pong');
  }
  assert.equal(page.heart.roundTrip.last, 0);
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

test('online, shown again and back from the cache ask the line at once, and do not wait for the next beat', () => {
  const happenings = [
    (page) => page.happens('online'),
    (page) => page.show('visible'),
    (page) => page.happens('pageshow', { persisted: true }),
  ];
  for (const happening of happenings) {
    const page = open();
    happening(page);
    assert.deepEqual(page.socket.sent, ['ping next=20000']);
    page.clock.advance(29_999);
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
