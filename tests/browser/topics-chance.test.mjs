// Topics of heartwire.js against a small server, over lines that are lost at any moment: whatever happens, each handler
// gets all in order and once, or is told of a loss, and each message with a key is published once.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Topics } from '../../src/browser/heartwire.js';
import { fakeBrowser } from './fakes.mjs';
import { Connection, TopicsServer } from './topics-server.mjs';

const NAMES = ['news', 'chat'];

/** Numbers below 1, the same for the same seed (mulberry32). */
function chance(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `losses`: whether the server may forget. */
function run(seed, steps, losses) {
  const next = chance(seed);
  const below = (count) => Math.floor(next() * count);
  const browser = fakeBrowser();
  const server = new TopicsServer(losses ? 4 : Infinity);
  const topics = new Topics('ws://fake/', { environment: browser.environment });
  const errors = [];
  topics.onerror = ({ error }) => errors.push(error);
  const readers = new Set();
  const published = [];
  const counts = { messages: 0, losses: 0, lines: 0, earliest: 0 };
  let connection = null;

  const dial = () => {
    while (browser.socket.readyState !== 0) browser.clock.advance(1_000);
    connection = new Connection(server, browser.socket);
    counts.lines += 1;
  };
  const cut = () => {
    connection?.end();
    connection = null;
  };
  const subscribe = () => {
    const topic = NAMES[below(NAMES.length)];
    const known = [...readers].filter((reader) => reader.topic === topic && reader.at).map((reader) => reader.at);
    let since = known.length > 0 && next() < 0.5 ? known[below(known.length)] : undefined;
    const reader = { topic, at: since };
    if (since === undefined && next() < 0.3) since = 'earliest';
    const handler = ({ position, data }) => {
      counts.messages += 1;
      const [epoch, offset] = position.split(':');
      if (reader.at) assert.equal(position, after(reader.at), `seed ${seed}: "${data}"`);
      assert.equal(data, `${topic} ${epoch} ${offset}`, `seed ${seed}`);
      reader.at = position;
    };
    const onlost = ({ position }) => {
      assert.ok(losses, `seed ${seed}: nothing was forgotten`);
      counts.losses += 1;
      reader.at = position;
    };
    reader.subscription = topics.subscribe(topic, handler, { since, onlost });
    const begin = (position) => {
      reader.at ??= position;
      if (since !== 'earliest') return;
      counts.earliest += 1;
      assert.ok(losses || position.endsWith(':0'), `seed ${seed}: all that was kept begins at ${position}`);
    };
    reader.subscription.ready.then(begin, () => {});
    readers.add(reader);
  };
  const unsubscribe = () => {
    const reader = [...readers][below(readers.size)];
    reader?.subscription.unsubscribe();
    readers.delete(reader);
  };
  /** By somebody else. */
  const write = (topic = NAMES[below(NAMES.length)]) => {
    const { epoch, last } = server.topic(topic);
    server.publish(topic, { text: `${topic} ${epoch} ${last + 1}` });
  };
  const publish = () => {
    const text = `own ${published.length}`;
    published.push({ text, done: topics.publish('own', text, { timeout: Infinity }) });
  };

  for (let step = 0; step < steps; step += 1) {
    const roll = next();
    if (roll < 0.35) connection?.takes();
    else if (roll < 0.7) connection?.gives();
    else if (roll < 0.82) write();
    else if (roll < 0.87) publish();
    else if (roll < 0.91) subscribe();
    else if (roll < 0.94) unsubscribe();
    else if (roll < 0.96) cut();
    else if (roll < 0.99) connection ?? dial();
    else if (losses && next() < 0.3) {
      cut();
      server.forget();
    }
    browser.clock.advance(below(100));
  }

  // In the end the line is there, and everybody has all.
  connection ?? dial();
  const calm = () => {
    for (let quiet = 0; quiet < 20; quiet += 1) {
      while (connection.takes() || connection.gives()) quiet = 0;
      browser.clock.advance(100);
    }
  };
  calm();
  for (const name of NAMES) write(name);
  calm();
  for (const { topic, subscription } of readers) {
    const { epoch, last } = server.topic(topic);
    assert.equal(subscription.position, `${epoch}:${last}`, `seed ${seed}: ${topic}`);
  }
  assert.deepEqual(errors, [], `seed ${seed}`);
  return { counts, server, published };
}

const after = (position) => {
  const [epoch, offset] = position.split(':');
  return `${epoch}:${Number(offset) + 1}`;
};

test('over lines that are lost, nothing is missed, and nothing comes or is published twice', async () => {
  let earliest = 0;
  for (let seed = 1; seed <= 60; seed += 1) {
    const { counts, server, published } = run(seed, 1_500, false);
    assert.ok(counts.messages > 100 && counts.lines > 3, JSON.stringify(counts));
    const texts = server.topic('own').history.map(({ frame }) => frame.text);
    assert.deepEqual(texts, published.map(({ text }) => text), `seed ${seed}: once, in order`);
    const replies = await Promise.all(published.map(({ done }) => done));
    const positions = server.topic('own').history.map(({ frame }) => frame.position);
    assert.deepEqual(replies.map(({ position }) => position), positions, `seed ${seed}`);
    // Told by now.
    earliest += counts.earliest;
  }
  assert.ok(earliest > 100, `only ${earliest} have got all`);
});

test('with a server that forgets, whatever is missed is told', () => {
  let losses = 0;
  for (let seed = 101; seed <= 160; seed += 1) losses += run(seed, 1_500, true).counts.losses;
  assert.ok(losses > 100, `only ${losses}`);
});
