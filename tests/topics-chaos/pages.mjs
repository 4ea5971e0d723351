// Pages that subscribe by `Topics` of heartwire.js, as far as Node can be one. Each line that it prints is a JSON object:
// what a page got of a topic. It ends with its input.
//
//     node --experimental-websocket pages.mjs '[{"url":"ws://127.0.0.1:9001/","topics":["news"]}]'

import { Topics } from '../../src/browser/heartwire.js';

const say = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);

// As brisk as the server is.
const options = {
  interval: 300,
  timeout: 300,
  maxMissed: 2,
  connectTimeout: 1_000,
  closeTimeout: 300,
  reconnect: { first: 50, longest: 300 },
};

JSON.parse(process.argv[2]).forEach(({ url, topics: names, token }, page) => {
  const topics = new Topics(url, { ...options, token: token ?? undefined });
  topics.onerror = ({ error }) => say({ page, error: error.code ?? String(error), reason: error.message });
  topics.socket.onopen = () => say({ page, open: true });
  for (const name of names) {
    const take = ({ topic, position, data }) => say({ page, topic, position, text: data });
    const onlost = ({ topic, position }) => say({ page, topic, position, lost: true });
    topics.subscribe(name, take, { onlost }).ready.then((position) => say({ page, topic: name, position, began: true }));
  }
});

process.stdin.on('end', () => process.exit(0)).resume();
