// What the peers that run on Node share: reading commands and judging what came back.
//
// What a peer does is written in peer.py.

'use strict';

const readline = require('node:readline');

/** What a command sends: the parts of a text, or a number of bytes of which byte i is i % 251. */
const PAYLOADS = {
  text: { parts: ['héllo ✓'] },
  binary: { length: 256 },
  fragmented: { parts: ['frag', 'men', 'ted ✓'] },
  large: { length: 1 << 20 },
};

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
    const isSame = await socket.echo(PAYLOADS[command]);
    say(isSame === undefined ? 'no' : isSame ? 'ok' : 'bad', command);
  }
}

module.exports = { obey, say };
