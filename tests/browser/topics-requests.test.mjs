// Topics of heartwire.js: publishing, tokens, presence, and servers that say what they should not. Nothing here waits.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import * as module from '../../src/browser/heartwire.js';
import { accept, at, message, open, page, read, reading, settled } from './topics-page.mjs';

const { HeartSocket } = module;
const published = (id, offset) => ({ type: 'published', id, topic: 'chat', position: at(offset), here: 2 });

// Publishing.

test('a message is published with a key by chance, and its reply gives its position', async () => {
  const browser = open();
  const text = browser.topics.publish('chat', 'good morning');
  const bytes = browser.topics.publish('chat', Uint8Array.of(9, 0, 255).subarray(1), { key: 'order 4711' });
  const buffer = browser.topics.publish('chat', Uint8Array.of(0, 255).buffer, { key: null });
  const half = browser.topics.publish('chat', 'a\ud800b', { key: null });
  const asked = browser.asked();
  const keys = asked.map(({ key }) => key);
  assert.match(keys[0], /^[A-Za-z0-9+/]{22}==$/);
  assert.deepEqual(keys.slice(1), ['order 4711', undefined, undefined]);
  assert.deepEqual(asked.map((each) => each.text ?? each.base64), ['good morning', 'AP8=', 'AP8=', 'a\ufffdb']);
  asked.forEach(({ id, topic }, index) => {
    assert.equal(topic, 'chat');
    browser.says(published(id, index + 1));
  });
  assert.deepEqual(await text, { position: at(1), here: 2 });
  assert.deepEqual((await Promise.all([bytes, buffer, half])).map(({ position }) => position), [at(2), at(3), at(4)]);
  assert.equal(browser.clock.pending, 1, 'the beat, and no timeouts');
});

test('a message without a reply is published again on the next connection, by the same key, in order', async () => {
  const browser = open();
  const first = browser.topics.publish('chat', 'first');
  const second = browser.topics.publish('chat', 'second');
  const before = browser.asked();
  browser.says(published(before[0].id, 1));
  browser.socket.end();
  const third = browser.topics.publish('chat', 'third', { key: null });
  browser.clock.advance(250);
  browser.opens();
  const after = browser.asked();
  assert.deepEqual(after.map(({ text, key }) => [text, key]), [['second', before[1].key], ['third', undefined]]);
  after.forEach(({ id }, index) => browser.says(published(id, index + 2)));
  const positions = (await Promise.all([first, second, third])).map(({ position }) => position);
  assert.deepEqual(positions, [at(1), at(2), at(3)]);
});

test('a message without a key is not published again', async () => {
  const browser = open();
  const once = browser.topics.publish('chat', 'once', { key: null });
  browser.comesBack();
  await assert.rejects(once, { code: 'disconnected' });
  assert.deepEqual(browser.asked(), []);
});

test('a line in doubt gets no message, and the next one gets it once', async () => {
  const browser = open({ interval: 1_000, timeout: 1_000, maxMissed: 1, outboxSize: 1_000 });
  browser.clock.time += 10_000;
  const kept = browser.topics.publish('chat', 'x');
  assert.deepEqual(browser.asked(), [], 'the line is asked before');
  browser.clock.advance(2_000);
  assert.equal(browser.sockets.length, 2);
  browser.opens();
  const [{ id }] = browser.asked();
  browser.says(published(id, 1));
  assert.equal((await kept).position, at(1));
});

test('a message by which a line is found dead is published on the next', async () => {
  const browser = open({ interval: 1_000, timeout: 1_000, maxMissed: 1 });
  browser.clock.advance(1_999);
  // The timer is late, but by too little to be excused.
  browser.clock.time += 2;
  const kept = browser.topics.publish('chat', 'x');
  assert.equal(browser.topics.socket.readyState, HeartSocket.CONNECTING);
  browser.clock.advance(250);
  browser.opens();
  browser.says(published(browser.asked()[0].id, 1));
  assert.equal((await kept).position, at(1));
});

test('a refusal is the reply to its message', async () => {
  const browser = open();
  const refused = browser.topics.publish('news', 'x');
  const [{ id }] = browser.asked();
  browser.says({ type: 'error', id, error: 'forbidden', topic: 'news', reason: 'publishing is not allowed' });
  await assert.rejects(refused, { name: 'TopicsError', code: 'forbidden', topic: 'news' });
  browser.comesBack();
  assert.deepEqual([browser.asked(), browser.codes()], [[], []]);
});

test('a message that the server cannot take now is published later, by the same key, unless it has none', async () => {
  const browser = open();
  const kept = browser.topics.publish('chat', 'x');
  const once = browser.topics.publish('chat', 'y', { key: null });
  const before = browser.asked();
  for (const { id } of before) {
    browser.says({ type: 'error', id, error: 'unavailable', topic: 'chat', reason: 'saving' });
  }
  await assert.rejects(once, { code: 'unavailable', topic: 'chat' });
  assert.deepEqual([browser.asked(), browser.codes()], [[], ['unavailable']]);
  browser.clock.advance(250);
  const after = browser.asked();
  assert.deepEqual(after.map(({ text, key }) => [text, key]), [['x', before[0].key]]);
  browser.says(published(after[0].id, 1));
  assert.equal((await kept).position, at(1));
});

test('a message is given up after its timeout, and what comes for it later is left aside', async () => {
  const browser = open();
  const late = browser.topics.publish('chat', 'x', { timeout: 1_000 });
  const [{ id }] = browser.asked();
  browser.clock.advance(999);
  assert.equal(await Promise.race([late, settled()]), undefined);
  browser.clock.advance(1);
  await assert.rejects(late, { code: 'timeout' });
  browser.says({ type: 'error', id, error: 'too-many', topic: 'chat', reason: 'too late' });
  browser.comesBack();
  assert.deepEqual([browser.asked(), browser.codes()], [[], []]);
});

test('a machine that slept publishes nothing whose key the server has forgotten', async () => {
  const browser = open();
  const old = browser.topics.publish('chat', 'old');
  browser.socket.end();
  browser.clock.sleep(240_000);
  browser.clock.advance(250);
  browser.opens();
  await assert.rejects(old, { code: 'timeout' });
  assert.deepEqual(browser.asked(), []);
});

test('so many messages are under way that a server knows the keys of all, and the others follow in order', async () => {
  const browser = open();
  const all = Array.from({ length: 300 }, (_, number) => browser.topics.publish('chat', `${number}`));
  const first = browser.asked();
  assert.equal(first.length, 256);
  browser.says(published(first[0].id, 1));
  browser.says(published(first[1].id, 2));
  const next = browser.asked();
  assert.deepEqual(next.map(({ text }) => text), ['256', '257']);
  // On the next connection as many again, from the oldest without a reply.
  browser.comesBack();
  const again = browser.asked();
  assert.deepEqual([again.length, again[0].text, again[255].text], [256, '2', '257']);
  again.forEach(({ id }, index) => browser.says(published(id, index + 3)));
  browser.asked().forEach(({ id }, index) => browser.says(published(id, index + 259)));
  const positions = (await Promise.all(all)).map(({ position }) => position);
  assert.deepEqual([positions.length, positions[0], positions[299]], [300, at(1), at(300)]);
});

test('what waits to be published is bounded', async () => {
  const browser = page({ outboxSize: 200 });
  const first = browser.topics.publish('chat', 'x'.repeat(100));
  await assert.rejects(browser.topics.publish('chat', 'x'.repeat(100)), { code: 'full', topic: 'chat' });
  browser.opens();
  browser.says(published(browser.asked()[0].id, 1));
  await first;
  browser.topics.publish('chat', 'x'.repeat(100)).catch(() => {});
  assert.equal(browser.asked().length, 1, 'there is room again');
});

test('arguments that make no sense are refused', async () => {
  const browser = open();
  await assert.rejects(browser.topics.publish('chat', 7), TypeError);
  await assert.rejects(browser.topics.publish('chat', 'x', { timeout: 'soon' }), TypeError);
  await assert.rejects(browser.topics.publish('chat', 'x', { timeout: 0 }), RangeError);
  assert.deepEqual(browser.asked(), []);
  assert.throws(() => page({ outboxSize: -1 }), RangeError);
});

// Tokens.

/** Answers the request that sends a token. */
function authenticate(browser, answer = { type: 'authenticated', user: 'alice', expires: 60_000 }) {
  const [{ id, type, token }, ...others] = browser.asked();
  assert.deepEqual([type, others], ['authenticate', []]);
  browser.says({ ...answer, id });
  return token;
}

const BAD = { type: 'error', error: 'bad-token', reason: 'it has expired' };

test('each connection sends a fresh token before all else', async () => {
  let given = 0;
  const browser = page({ token: async () => `token ${(given += 1)}` });
  read(browser);
  const first = browser.topics.publish('chat', 'x');
  browser.opens();
  assert.deepEqual(browser.asked(), []);
  await settled();
  assert.equal(authenticate(browser), 'token 1');
  await settled();
  assert.deepEqual(browser.asked().map(({ type }) => type), ['subscribe', 'publish']);
  browser.comesBack();
  await settled();
  assert.equal(authenticate(browser), 'token 2');
  await settled();
  assert.deepEqual(browser.asked().map(({ type }) => type), ['subscribe', 'publish']);
  first.catch(() => {});
});

test('a token that is about to expire is renewed, and nothing else is asked for again', async () => {
  let given = 0;
  const browser = open({ token: () => `token ${(given += 1)}` });
  read(browser);
  await settled();
  authenticate(browser);
  await settled();
  accept(browser, 0);
  browser.says({ type: 'expiring', in: 30_000 });
  browser.says({ type: 'expiring', in: 29_000 });
  await settled();
  assert.equal(authenticate(browser), 'token 2');
  await settled();
  assert.deepEqual(browser.asked(), []);
});

test('a string is sent as it is, and not again when it expires', async () => {
  const browser = open({ token: 'fixed' });
  await settled();
  assert.equal(authenticate(browser), 'fixed');
  browser.says({ type: 'expiring', in: 30_000 });
  await settled();
  assert.deepEqual(browser.asked(), []);
  browser.socket.end(4401);
  browser.clock.advance(250);
  browser.opens();
  await settled();
  assert.equal(authenticate(browser), 'fixed');
});

test('a token that is not given, or refused, is fetched again later', async () => {
  const offline = new Error('offline');
  const tokens = [() => { throw offline; }, () => 'old', () => Promise.reject(offline), () => 'good'];
  const browser = open({ token: () => tokens.shift()() });
  const news = read(browser);
  await settled();
  assert.deepEqual(browser.codes(), [offline]);
  browser.clock.advance(250);
  await settled();
  assert.equal(authenticate(browser, BAD), 'old');
  await settled();
  assert.deepEqual(browser.codes(), ['bad-token']);
  browser.clock.advance(499);
  await settled();
  assert.equal(tokens.length, 2);
  browser.clock.advance(1);
  await settled();
  assert.deepEqual(browser.codes(), [offline]);
  browser.clock.advance(1_000);
  await settled();
  assert.equal(authenticate(browser), 'good');
  await settled();
  accept(browser, 1);
  assert.equal(await news.ready, at(1));
});

test('a server that takes no tokens is used without one, and told of once for each connection', async () => {
  const browser = open({ token: () => 'of no use' });
  const news = read(browser);
  await settled();
  authenticate(browser, { type: 'error', error: 'no-tokens', reason: 'the server takes no tokens' });
  await settled();
  assert.deepEqual(browser.codes(), ['no-tokens']);
  accept(browser, 1);
  assert.equal(await news.ready, at(1));
  browser.clock.advance(600_000);
  await settled();
  assert.deepEqual([browser.asked(), browser.codes()], [[], []]);
});

test('a token that comes for a connection that is lost is not sent', async () => {
  const waiting = [];
  const browser = open({ token: () => new Promise((resolve, reject) => waiting.push({ resolve, reject })) });
  browser.comesBack();
  waiting[0].resolve('late');
  await settled();
  assert.deepEqual(browser.asked(), []);
  browser.socket.end();
  browser.clock.advance(500);
  browser.opens();
  waiting[1].reject(new Error('late'));
  await settled();
  assert.deepEqual(browser.codes(), []);
  waiting[2].resolve('in time');
  await settled();
  assert.equal(authenticate(browser), 'in time');
});

// Presence.

const member = (user, state = 'alive') => ({ user, state, missed: 0, max_missed: 3, silent: 5, round_trip: null });

test('who is there is followed, from the list on', async () => {
  const browser = open();
  const told = [];
  const follow = () => (members, change) => {
    told.push([members.map(({ user, connection, state }) => `${user ?? connection} ${state}`).join(), change?.type]);
  };
  const room = read(browser, 'room', { onpresence: follow() });
  assert.deepEqual(accept(browser, 0), [{ topic: 'room', presence: true }]);
  browser.says({ type: 'presence', topic: 'room', members: [member('alice'), { connection: 7, state: 'alive' }] });
  browser.says({ type: 'joined', topic: 'room', member: member('bob') });
  browser.says({ type: 'doubted', topic: 'room', member: member('bob', 'doubted') });
  browser.says({ type: 'alive', topic: 'room', member: member('bob') });
  browser.says({ type: 'gone', topic: 'room', member: member('alice'), cause: 'dead', within: 20_000 });
  assert.deepEqual(told.splice(0), [
    ['alice alive,7 alive', undefined],
    ['alice alive,7 alive,bob alive', 'joined'],
    ['alice alive,7 alive,bob doubted', 'doubted'],
    ['alice alive,7 alive,bob alive', 'alive'],
    ['7 alive,bob alive', 'gone'],
  ]);
  assert.deepEqual(room.members.map(({ user }) => user), [undefined, 'bob']);

  read(browser, 'room', { onpresence: follow() });
  assert.deepEqual([told.splice(0), browser.asked()], [[], []], 'the list is here already, and told later');
  await settled();
  assert.deepEqual(told.splice(0), [['7 alive,bob alive', undefined]]);

  browser.comesBack();
  assert.deepEqual(accept(browser, 0), [{ topic: 'room', since: at(0), presence: true }]);
  browser.says({ type: 'presence', topic: 'room', members: [member('carol')] });
  assert.deepEqual(told, Array(2).fill(['carol alive', undefined]));
});

test('connections of several servers that have the same number are several members', () => {
  const browser = open();
  const room = read(browser, 'room', { presence: true });
  accept(browser, 0);
  const [one, other] = ['one', 'other'].map((node) => ({ connection: 7, node, state: 'alive' }));
  browser.says({ type: 'presence', topic: 'room', members: [one] });
  browser.says({ type: 'joined', topic: 'room', member: other });
  assert.deepEqual(room.members.map(({ node }) => node), ['one', 'other']);
  browser.says({ type: 'gone', topic: 'room', member: { connection: 7, node: 'one' }, cause: 'dead', within: 20_000 });
  assert.deepEqual(room.members, [other]);
});

test('presence that is wanted later is asked for, without losing anything', () => {
  const browser = reading();
  let members = null;
  read(browser, 'news', { onpresence: (now) => (members = now) });
  assert.deepEqual(accept(browser, 2), [{ topic: 'news', since: at(1), presence: true }]);
  browser.says({ type: 'presence', topic: 'news', members: [member('alice')] });
  browser.says(message(2));
  assert.deepEqual([browser.reader.got, members.length], [['news 2'], 1]);
});

// Servers that say what they should not.

test('what is unknown is ignored', () => {
  const browser = reading({ token: undefined });
  const strange = [
    { type: 'dance' }, { type: 'dance', id: 1, topic: 'news' }, {}, [], [1], { type: null }, { type: '__proto__' },
    message(1, 'chat'), { type: 'lost', topic: 'chat', position: at(3) },
    { type: 'presence', topic: 'news', members: [] }, { type: 'subscribed', id: 99, topics: [] },
    { type: 'published', id: 1 }, { type: 'expiring' }, { type: 'lost', topic: 'news', position: 'x' },
    { ...message(2), more: 'members' },
  ];
  for (const frame of strange) browser.says(frame);
  assert.deepEqual([browser.reader.got, browser.codes(), browser.asked()], [['news 2'], [], []]);
});

test('what is no object, and what lacks its members, is an error of the server', () => {
  const browser = reading();
  for (const text of ['', 'hello', '{"type":"message"', 'null', '7', '"text"']) browser.says(text);
  browser.socket.receive(new ArrayBuffer(3));
  const none = [undefined, 7, `${at(2)}x`, at('99999999999999999')];
  for (const position of none) browser.says({ ...message(2), position });
  assert.deepEqual(browser.codes(), Array(11).fill('protocol'));
  read(browser, 'room', { presence: true });
  accept(browser, 0);
  browser.says({ type: 'joined', topic: 'room', member: member('early') });
  browser.says({ type: 'presence', topic: 'room', members: [null] });
  browser.says({ type: 'presence', topic: 'room' });
  assert.deepEqual(browser.codes(), Array(3).fill('protocol'));
  browser.says(message(2));
  assert.deepEqual(browser.reader.got, ['news 2']);
});

test('an answer without the topic is asked for again, later', () => {
  for (const topics of [undefined, 'news', [], [null], [{ topic: 'news' }], [{ topic: 'news', position: 'x' }]]) {
    const browser = open();
    read(browser);
    browser.says({ type: 'subscribed', id: browser.asked()[0].id, topics });
    assert.deepEqual([browser.codes(), browser.asked()], [['protocol'], []]);
    browser.clock.advance(250);
    accept(browser, 1);
  }
});

test('an error that names nothing of ours is an event', () => {
  const browser = reading();
  browser.says({ type: 'error', error: 'malformed', reason: 'not a JSON object' });
  assert.deepEqual(browser.codes(), ['malformed']);
  browser.says(message(2));
  assert.deepEqual(browser.reader.got, ['news 2']);
});

// The types.

test('heartwire.d.ts names all that is exported, and all that its classes have', () => {
  const types = readFileSync(new URL('../../src/browser/heartwire.d.ts', import.meta.url), 'utf8');
  for (const [name, value] of Object.entries(module)) {
    const [found, members] = new RegExp(`export (?:class|const) ${name}\\b([^]*?\\n}|)`).exec(types) ?? [];
    assert.ok(found, name);
    const names = typeof value === 'function' ? Object.getOwnPropertyNames(value.prototype) : [];
    for (const member of names) {
      assert.match(members, new RegExp(`^  (readonly )?${member}[(:]`, 'm'), `${name}.${member}`);
    }
  }
});
