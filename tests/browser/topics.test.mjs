// Topics of heartwire.js: connections, order, losses, refusals, storage. Nothing here waits.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { HeartSocket, TOPICS_PROTOCOL, TopicsError } from '../../src/browser/heartwire.js';
import { EPOCH, FakeStorage, OTHER, accept, at, message, open, page, read, reading, settled } from './topics-page.mjs';

// Connections.

test('the subprotocol of topics is offered alone, and has a heartbeat', () => {
  const browser = open();
  assert.deepEqual(browser.socket.offered, [TOPICS_PROTOCOL]);
  browser.says('heartwire {"connection":7,"leader":"server","interval":2000,"timeout":1000,"max_missed":2}');
  assert.equal(browser.topics.socket.settings.connection, 7);
  browser.clock.advance(2_000);
  assert.deepEqual(browser.socket.sent, ['ping next=2000']);
  browser.says('pong');
  browser.clock.advance(5_000);
  assert.equal(browser.topics.socket.readyState, HeartSocket.CONNECTING, 'found dead');
  assert.deepEqual(browser.codes(), []);
});

test('without a heartbeat its settings are no frame', () => {
  const browser = open({ heartbeat: 'off' });
  browser.says('heartwire {"connection":7}');
  assert.deepEqual(browser.codes(), []);
});

test('what is subscribed to before there is a connection is asked for in one request', async () => {
  const browser = page();
  const news = browser.topics.subscribe('news', () => {});
  const chat = browser.topics.subscribe('chat', () => {}, { since: at(3) });
  browser.opens();
  assert.deepEqual(accept(browser, 5), [{ topic: 'news' }, { topic: 'chat', since: at(3) }]);
  assert.deepEqual([await news.ready, await chat.ready], [at(5), at(3)]);
});

test('a connection that comes back goes on from the last message, in one request', () => {
  const browser = open();
  const news = read(browser);
  accept(browser, 7);
  const chat = read(browser, 'chat');
  accept(browser, 0);
  browser.says(message(8));
  browser.comesBack();
  assert.deepEqual(accept(browser, 9), [{ topic: 'news', since: at(8) }, { topic: 'chat', since: at(0) }]);
  browser.says(message(9));
  browser.says(message(1, 'chat'));
  assert.deepEqual([news.got, chat.got], [['news 8', 'news 9'], ['chat 1']]);
});

test('a subscription without an answer is made again from now on', async () => {
  const browser = open();
  const news = read(browser);
  browser.asked();
  browser.comesBack();
  assert.deepEqual(accept(browser, 4), [{ topic: 'news' }]);
  assert.equal(await news.ready, at(4));
});

// Order, gaps, losses.

test('messages come in order and once', () => {
  const browser = reading();
  for (const offset of [2, 2, 1, 3]) browser.says(message(offset));
  assert.deepEqual(browser.reader.got, ['news 2', 'news 3']);
  assert.deepEqual(browser.codes(), []);
});

const WRONG = { 'a gap': message(3), 'an epoch of which nothing was said': message(2, 'news', OTHER) };
for (const [what, wrong] of Object.entries(WRONG)) {
  test(`${what} is the server's error, and asked for again, later each time`, () => {
    const browser = reading();
    browser.says(wrong);
    browser.says(message(4));
    assert.deepEqual(browser.codes(), ['protocol']);
    browser.clock.advance(249);
    assert.deepEqual(browser.asked(), []);
    browser.clock.advance(1);
    assert.deepEqual(accept(browser, 4), [{ topic: 'news', since: at(1) }]);
    browser.says(wrong);
    browser.clock.advance(499);
    assert.deepEqual(browser.asked(), []);
    browser.clock.advance(1);
    accept(browser, 4);
    for (const offset of [2, 3, 4]) browser.says(message(offset));
    assert.deepEqual(browser.reader.got, ['news 2', 'news 3', 'news 4']);
  });
}

test('a loss is told once, and messages follow it', () => {
  const browser = reading();
  browser.comesBack();
  accept(browser, 6, OTHER);
  browser.says({ type: 'lost', topic: 'news', position: at(6, OTHER) });
  browser.says(message(7, 'news', OTHER));
  assert.deepEqual(browser.reader.got, [`lost ${at(6, OTHER)}`, 'news 7']);
  browser.says({ type: 'lost', topic: 'news', position: at(9, OTHER) });
  browser.says(message(10, 'news', OTHER));
  assert.deepEqual(browser.reader.got.slice(2), [`lost ${at(9, OTHER)}`, 'news 10'], 'of one who was slow');
  assert.deepEqual(browser.codes(), []);
});

test('a loss that is later than the answer is told once', () => {
  const browser = reading();
  browser.comesBack();
  accept(browser, 6, OTHER);
  browser.says({ type: 'lost', topic: 'news', position: at(7, OTHER) });
  assert.deepEqual(browser.reader.got, [`lost ${at(7, OTHER)}`]);
});

test('text and bytes arrive as what they are', () => {
  const browser = reading();
  browser.says({ type: 'message', topic: 'news', position: at(2), base64: 'AP8=' });
  browser.says({ type: 'message', topic: 'news', position: at(3), base64: '***' });
  browser.says({ type: 'message', topic: 'news', position: at(4) });
  browser.says({ type: 'message', topic: 'news', position: at(5), text: '' });
  assert.deepEqual(browser.reader.got, [Uint8Array.of(0, 255), '']);
  assert.deepEqual(browser.codes(), ['protocol', 'protocol']);
});

test('a handler that throws breaks no other, and has taken the message', () => {
  const browser = open();
  const other = [];
  browser.topics.subscribe('news', ({ position }) => {
    throw position;
  });
  browser.topics.subscribe('news', ({ data }) => other.push(data));
  accept(browser, 0);
  browser.says(message(1));
  browser.comesBack();
  assert.deepEqual([browser.thrown, other], [[at(1)], ['news 1']]);
  assert.deepEqual(accept(browser, 1), [{ topic: 'news', since: at(1) }]);
});

// Several who read one topic.

test('two subscriptions to a topic are one on the wire', async () => {
  const browser = reading();
  const second = read(browser);
  assert.equal(await second.ready, at(1));
  browser.says(message(2));
  assert.deepEqual([browser.reader.got, second.got], [['news 2'], ['news 2']]);
  browser.reader.unsubscribe();
  browser.says(message(3));
  assert.deepEqual([browser.reader.got, second.got], [['news 2'], ['news 2', 'news 3']]);
  assert.deepEqual(browser.asked(), []);
  second.unsubscribe();
  assert.deepEqual(browser.asked().map(({ type, topics }) => [type, topics]), [['unsubscribe', ['news']]]);
});

test('a second subscription that begins earlier gets what it lacks, and the first nothing twice', async () => {
  const browser = reading();
  browser.says(message(2));
  const second = read(browser, 'news', { since: at(0) });
  browser.says(message(3));
  assert.deepEqual(accept(browser, 3), [{ topic: 'news', since: at(0) }]);
  assert.equal(await second.ready, at(0));
  for (const offset of [1, 2, 3, 4]) browser.says(message(offset));
  assert.deepEqual(browser.reader.got, ['news 2', 'news 3', 'news 4']);
  assert.deepEqual(second.got, ['news 1', 'news 2', 'news 3', 'news 4']);
});

test('one who begins too early does not make the others lose anything', () => {
  const browser = reading();
  const second = read(browser, 'news', { since: at(0) });
  accept(browser, 3);
  browser.says({ type: 'lost', topic: 'news', position: at(3) });
  assert.deepEqual([browser.reader.got, second.got], [[], [`lost ${at(3)}`]]);
  browser.clock.advance(250);
  assert.deepEqual(accept(browser, 3), [{ topic: 'news', since: at(1) }]);
  for (const offset of [2, 3, 4]) browser.says(message(offset));
  assert.deepEqual([browser.reader.got, second.got.slice(1)], [['news 2', 'news 3', 'news 4'], ['news 4']]);
});

test('a position of another epoch is lost, and the server need not be asked for it', () => {
  const browser = reading();
  const second = read(browser, 'news', { since: at(9, OTHER) });
  accept(browser, 1);
  browser.says(message(2));
  assert.deepEqual([browser.reader.got, second.got], [['news 2'], [`lost ${at(1)}`, 'news 2']]);
});

test('one who begins now has lost nothing of what an older one asks for', () => {
  const browser = page();
  const old = read(browser, 'news', { since: at(1) });
  const young = read(browser);
  browser.opens();
  assert.deepEqual(accept(browser, 5), [{ topic: 'news', since: at(1) }]);
  browser.says({ type: 'lost', topic: 'news', position: at(5) });
  browser.says(message(6));
  browser.clock.advance(1_000);
  assert.deepEqual([old.got, young.got, browser.asked()], [[`lost ${at(5)}`, 'news 6'], ['news 6'], []]);
});

test('while a topic is asked for again, neither a loss nor an answer of before counts', () => {
  const browser = open();
  const first = read(browser, 'news', { since: at(1) });
  const [{ id }] = browser.asked();
  const second = read(browser, 'news', { since: at(0) });
  const young = read(browser);
  browser.says({ type: 'subscribed', id, topics: [{ topic: 'news', position: at(2) }] });
  browser.says({ type: 'lost', topic: 'news', position: at(3) });
  browser.says(message(4));
  assert.deepEqual([first.got, second.got, young.got, browser.codes()], [[], [], [], []]);
  assert.deepEqual(accept(browser, 4), [{ topic: 'news', since: at(0) }]);
  for (const offset of [1, 2, 3, 4, 5]) browser.says(message(offset));
  assert.deepEqual([first.got.length, second.got.length, young.got.length], [4, 5, 1]);
});

// Refusals, and the end.

test('each topic is refused by itself', async () => {
  const browser = open();
  const secret = read(browser, 'secret');
  const [{ id }] = browser.asked();
  const refusal = { topic: 'secret', error: 'forbidden', reason: 'subscribing is not allowed' };
  browser.says({ type: 'subscribed', id, topics: [refusal] });
  await assert.rejects(secret.ready, { code: 'forbidden', topic: 'secret', message: 'subscribing is not allowed' });
  browser.comesBack();
  assert.deepEqual([browser.asked(), browser.codes()], [[], []]);
});

test('a request that is refused as a whole refuses its topics', async () => {
  const browser = open();
  const news = read(browser);
  const [{ id }] = browser.asked();
  browser.says({ type: 'error', id, error: 'malformed', reason: 'why' });
  await assert.rejects(news.ready, (error) => error instanceof TopicsError && error.code === 'malformed');
});

test('a name that is too long is refused without the server', async () => {
  const browser = open();
  await assert.rejects(read(browser, 'é'.repeat(129)).ready, { code: 'bad-topic' });
  assert.deepEqual(browser.asked(), []);
  read(browser, 'é'.repeat(128));
  assert.equal(browser.asked().length, 1);
});

test('a topic that is unavailable is asked for again', async () => {
  const browser = open();
  const news = read(browser);
  const [{ id }] = browser.asked();
  browser.says({ type: 'subscribed', id, topics: [{ topic: 'news', error: 'unavailable', reason: 'later' }] });
  assert.deepEqual(browser.codes(), ['unavailable']);
  browser.clock.advance(250);
  accept(browser, 2);
  assert.equal(await news.ready, at(2));
});

test('a subscription that ends by the server is an error event', () => {
  const browser = reading();
  browser.says({ type: 'error', error: 'forbidden', topic: 'news', reason: 'by the new token' });
  assert.deepEqual(browser.codes(), ['forbidden']);
  browser.says(message(2));
  browser.comesBack();
  assert.deepEqual([browser.reader.got, browser.asked()], [[], []]);
});

test('what is unsubscribed while there is no connection is not asked for again', async () => {
  const browser = reading();
  const chat = read(browser, 'chat');
  browser.socket.end();
  browser.reader.unsubscribe();
  chat.unsubscribe();
  browser.clock.advance(250);
  browser.opens();
  assert.deepEqual(browser.asked(), []);
  await assert.rejects(chat.ready, { code: 'closed' });
});

test('what is unsubscribed and subscribed again gets nothing of what is on its way', () => {
  const browser = reading();
  browser.reader.unsubscribe();
  browser.says(message(2));
  browser.asked();
  const again = read(browser);
  browser.says(message(3));
  accept(browser, 3);
  browser.says(message(4));
  assert.deepEqual([browser.reader.got, again.got], [[], ['news 4']]);
});

test('a refusal of what was unsubscribed does not reach what was subscribed to since', async () => {
  const browser = open();
  read(browser).unsubscribe();
  const again = read(browser);
  const [first, , second] = browser.asked();
  browser.says({ type: 'subscribed', id: first.id, topics: [{ topic: 'news', error: 'forbidden' }] });
  browser.says({ type: 'subscribed', id: second.id, topics: [{ topic: 'news', position: at(0) }] });
  assert.equal(await again.ready, at(0));
  browser.says(message(1));
  assert.deepEqual(again.got, ['news 1']);
});

test('a second reply to a request is ignored', () => {
  const browser = open();
  const news = read(browser);
  const [{ id }] = browser.asked();
  browser.says({ type: 'subscribed', id, topics: [{ topic: 'news', position: at(0) }] });
  browser.says({ type: 'error', id, error: 'forbidden', topic: 'news' });
  browser.says(message(1));
  assert.deepEqual([news.got, browser.codes()], [['news 1'], []]);
});

test('unsubscribing that is refused is an error event', () => {
  const browser = reading();
  browser.reader.unsubscribe();
  browser.says({ type: 'error', id: browser.asked()[0].id, error: 'malformed', reason: 'why' });
  assert.deepEqual(browser.codes(), ['malformed']);
});

test('a handler may unsubscribe itself and others', () => {
  const browser = open();
  const got = [];
  const first = browser.topics.subscribe('news', () => {
    first.unsubscribe();
    second.unsubscribe();
  });
  const second = browser.topics.subscribe('news', ({ data }) => got.push(data));
  accept(browser, 0);
  browser.says(message(1));
  browser.says(message(2));
  assert.deepEqual(got, []);
});

test('since the earliest, all that is kept comes', async () => {
  const browser = open();
  const news = read(browser, 'news', { since: 'earliest' });
  assert.deepEqual(accept(browser, 5, EPOCH, 3), [{ topic: 'news', since: 'earliest' }]);
  assert.equal(await news.ready, at(3));
  for (const offset of [4, 5, 6]) browser.says(message(offset));
  assert.deepEqual(news.got, ['news 4', 'news 5', 'news 6']);
  // From then on it has a position like any other.
  browser.comesBack();
  assert.deepEqual(accept(browser, 7), [{ topic: 'news', since: at(6) }]);
  browser.says(message(7));
  assert.deepEqual([news.got.slice(3), browser.codes()], [['news 7'], []]);
});

test('the earliest are asked for again without an answer, and where it does not say where they begin', async () => {
  const browser = open();
  const news = read(browser, 'news', { since: 'earliest' });
  browser.asked();
  browser.comesBack();
  const [{ id, topics }] = browser.asked();
  assert.deepEqual(topics, [{ topic: 'news', since: 'earliest' }]);
  browser.says({ type: 'subscribed', id, topics: [{ topic: 'news', position: at(5) }] });
  assert.deepEqual(browser.codes(), ['protocol']);
  browser.clock.advance(1_000);
  assert.deepEqual(accept(browser, 5, EPOCH, 2), [{ topic: 'news', since: 'earliest' }]);
  assert.equal(await news.ready, at(2));
});

test('one who wants the earliest takes nothing from the others, and gives them nothing twice', async () => {
  const browser = reading();
  for (const offset of [2, 3]) browser.says(message(offset));
  const all = read(browser, 'news', { since: 'earliest' });
  const young = read(browser);
  assert.deepEqual(accept(browser, 3, EPOCH, 1), [{ topic: 'news', since: 'earliest' }]);
  // One more that comes once all is on its way has to ask.
  const late = read(browser, 'news', { since: 'earliest' });
  browser.says(message(2));
  assert.deepEqual(accept(browser, 3, EPOCH, 1), [{ topic: 'news', since: 'earliest' }]);
  assert.deepEqual(await Promise.all([all.ready, young.ready, late.ready]), [at(1), at(3), at(1)]);
  for (const offset of [2, 3, 4]) browser.says(message(offset));
  assert.deepEqual([browser.reader.got, young.got], [['news 2', 'news 3', 'news 4'], ['news 4']]);
  assert.deepEqual([all.got, late.got], [['news 2', 'news 3', 'news 4'], ['news 2', 'news 3', 'news 4']]);
  assert.deepEqual([browser.asked(), browser.codes()], [[], []]);
});

test('who has had less than what is kept is told of the loss, when somebody wants the earliest', () => {
  const browser = page();
  const old = read(browser, 'news', { since: at(1) });
  const other = read(browser, 'news', { since: at(9, OTHER) });
  const all = read(browser, 'news', { since: 'earliest' });
  browser.opens();
  accept(browser, 5, EPOCH, 3);
  for (const offset of [4, 5, 6]) browser.says(message(offset));
  assert.deepEqual(all.got, ['news 4', 'news 5', 'news 6']);
  assert.deepEqual([old.got, other.got], [[`lost ${at(3)}`, ...all.got], [`lost ${at(5)}`, 'news 6']]);
});

test('a position that is none is refused at once', () => {
  const browser = page();
  for (const since of ['', 'x', 'latest', 'Earliest', `${EPOCH}:`, `${EPOCH}:01`, `${EPOCH.toUpperCase()}:1`, 7]) {
    assert.throws(() => browser.topics.subscribe('news', () => {}, { since }), { code: 'bad-position' }, String(since));
  }
});

test('close ends all that waits', async () => {
  const browser = reading();
  const chat = read(browser, 'chat');
  const published = browser.topics.publish('news', 'x');
  browser.topics.close();
  browser.socket.end(1000);
  await assert.rejects(chat.ready, { code: 'closed' });
  await assert.rejects(published, { code: 'closed' });
  await assert.rejects(browser.topics.publish('news', 'y'), { code: 'closed' });
  await assert.rejects(read(browser).ready, { code: 'closed' });
  assert.equal(browser.clock.pending, 0);
  assert.deepEqual(browser.codes(), []);
});

test('close leaves neither timers nor rejections that nobody handles', async () => {
  const browser = reading();
  read(browser, 'chat');
  accept(browser, 0);
  for (const topic of ['news', 'chat']) browser.says(message(9, topic));
  read(browser, 'more');
  browser.topics.close();
  browser.socket.end(1000);
  // The test fails with a rejection that is not handled.
  await settled();
  assert.equal(browser.clock.pending, 0);
});

// Storage.

test('a page that is loaded again goes on from where its handlers were', () => {
  const storage = new FakeStorage();
  const browser = open({ storage, key: 'mine:' });
  const within = [];
  browser.topics.subscribe('news', () => within.push(storage.getItem('mine:news')));
  accept(browser, 4);
  assert.equal(storage.getItem('mine:news'), at(4), 'before the first message too');
  browser.says(message(5));
  assert.deepEqual(within, [at(4)], 'kept after the handler');

  const reloaded = open({ storage, key: 'mine:' });
  const news = read(reloaded);
  assert.deepEqual(accept(reloaded, 6), [{ topic: 'news', since: at(5) }]);
  reloaded.says({ type: 'lost', topic: 'news', position: at(8) });
  assert.equal(storage.getItem('mine:news'), at(8));
  news.unsubscribe();
  assert.deepEqual([...storage.items], []);
});

test('who subscribes or unsubscribes within a handler finds things as they are', () => {
  const storage = new FakeStorage();
  const browser = open({ storage });
  const second = [];
  const first = browser.topics.subscribe('news', () => {
    browser.topics.subscribe('news', ({ data }) => second.push(data));
    first.unsubscribe();
  });
  const chat = browser.topics.subscribe('chat', () => chat.unsubscribe());
  for (const { id, topics } of browser.asked()) {
    browser.says({ type: 'subscribed', id, topics: [{ ...topics[0], position: at(0) }] });
  }
  browser.says(message(1));
  assert.deepEqual(browser.asked(), [], 'what is kept is older than what has come');
  browser.says(message(2));
  browser.says(message(1, 'chat'));
  assert.deepEqual([second, [...storage.items.keys()]], [['news 2'], ['heartwire:news']]);
});

test('what the page says goes before what is kept, and what is no position is left aside', () => {
  const storage = new FakeStorage();
  storage.setItem('heartwire:news', at(5));
  storage.setItem('heartwire:chat', 'garbage');
  const browser = page({ storage });
  for (const [topic, since] of [['news', null], ['chat', undefined]]) read(browser, topic, { since });
  browser.opens();
  assert.deepEqual(accept(browser, 6), [{ topic: 'news' }, { topic: 'chat' }]);
});

test('a storage that fails is an error once, and messages come all the same', () => {
  const full = new DOMException('full', 'QuotaExceededError');
  const browser = reading({ storage: { getItem: () => null, setItem: () => { throw full; } } });
  browser.says(message(2));
  assert.deepEqual(browser.reader.got, ['news 2']);
  assert.deepEqual(browser.codes(), [full.code]);
});
