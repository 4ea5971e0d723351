// What the peers that run on Node share: reading commands and judging what came back.
//
// What a peer does is written in peer.py.

'use strict';

const { readFileSync } = require('node:fs');
const readline = require('node:readline');

const text = (...parts) => ({ isText: true, parts: parts.map((part) => Buffer.from(part)) });
/** Bytes of which byte i is i % 251. */
const pattern = (length) => ({ isText: false, parts: [Buffer.from(Uint8Array.from({ length }, (_, i) => i % 251))] });

/** What a command sends: the parts of a message. */
const PAYLOADS = {
  text: text('héllo ✓'),
  binary: pattern(256),
  fragmented: text('frag', 'men', 'ted ✓'),
  large: pattern(1 << 20),
};

/** A file, in one part or in three, between which characters may be cut. */
function payload(command) {
  const [kind, path] = command.split(' ');
  if (!path) return PAYLOADS[command];
  const bytes = readFileSync(path);
  const third = Math.floor(bytes.length / 3);
  const thirds = [bytes.subarray(0, third), bytes.subarray(third, 2 * third), bytes.subarray(2 * third)];
  return { isText: path.endsWith('.txt'), parts: kind === 'file' ? [bytes] : thirds, isSlow: kind === 'slowly' };
}

function say(...words) {
  console.log(words.join(' '));
}

/**
 * Obeys commands until there are no more. `socket` has
 * - `echo(payload)`: sends it and tells whether the same came back; `undefined` if there is no way to send it,
 * - `close()`: closes with 1000,
 * - `closed`: a promise of the close code.
 */
async function obey(socket) {
  say('open');
  for await (const command of readline.createInterface({ input: process.stdin })) {
    if (command === 'close') socket.close();
    if (command === 'close' || command === 'await-close') {
      say('closed', await socket.closed);
      continue;
    }
    const isSame = await socket.echo(payload(command));
    say(isSame === undefined ? 'no' : isSame ? 'ok' : 'bad', command);
  }
}

module.exports = { obey, say };
