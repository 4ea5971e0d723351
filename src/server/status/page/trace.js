// The line of one heart: flat, with a spike for each Pong, the higher the longer it took, and a cross for each miss.

/** One beat as an electrocardiogram shows it: places in pixels from its middle, heights as parts of the spike's. */
const SHAPE = [
  [-9, 0],
  [-6, 0.12],
  [-4, 0],
  [-2, -0.2],
  [0, 1],
  [2.5, -0.35],
  [4.5, 0],
  [8, 0.18],
  [11, 0],
];

/** Round trips from a tenth of a millisecond to ten seconds, so that both can be told apart. */
function heightOf(roundTrip) {
  const magnitude = Math.log10(Math.max(roundTrip ?? 1, 0.1)) + 1;
  return 0.3 + 0.7 * Math.min(magnitude / 5, 1);
}

export class Trace {
  #canvas;
  #marks = [];
  #began;
  #endedAt = null;
  #isClean = false;
  isMissing = false;

  constructor(canvas, now) {
    this.#canvas = canvas;
    this.#began = now;
  }

  beat(at, roundTrip) {
    this.#mark({ at, height: heightOf(roundTrip) });
  }

  miss(at) {
    this.#mark({ at, isMiss: true });
  }

  /** More than are ever in sight are not kept: a line that is scrolled away is not drawn for long. */
  #mark(mark) {
    this.#marks.push(mark);
    if (this.#marks.length > 200) this.#marks.shift();
  }

  /** From here on there is no line: it was closed in order, or is dead. */
  end(at, isClean) {
    this.#endedAt ??= at;
    this.#isClean = isClean;
  }

  /** Seen again, after we had lost sight of it. */
  goOn() {
    this.#endedAt = null;
  }

  /** Draws the last `span` milliseconds, in the colours of the page. */
  draw(now, span, colours) {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = globalThis.devicePixelRatio ?? 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    this.#marks = this.#marks.filter(({ at }) => now - at < span * 1.2);
    const context = canvas.getContext('2d');
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    const x = (at) => width - ((now - at) / span) * width;
    const middle = height * 0.68;
    this.#drawLine(context, x, middle, width, colours);
    context.strokeStyle = colours.bad;
    for (const { at } of this.#marks.filter((mark) => mark.isMiss)) drawCross(context, x(at), middle);
  }

  #colour({ good, warn, bad, muted }) {
    if (this.#endedAt !== null) return this.#isClean ? muted : bad;
    return this.isMissing ? warn : good;
  }

  #drawLine(context, x, middle, width, colours) {
    const end = this.#endedAt === null ? width : x(this.#endedAt);
    const start = Math.max(0, x(this.#began));
    context.lineWidth = 1.6;
    context.lineJoin = 'round';
    context.strokeStyle = this.#colour(colours);
    context.beginPath();
    context.moveTo(start, middle);
    for (const { at, height, isMiss } of this.#marks) {
      if (isMiss) continue;
      for (const [offset, part] of SHAPE) {
        const place = x(at) + offset;
        if (place > start && place < end) context.lineTo(place, middle - part * height * middle * 0.92);
      }
    }
    context.lineTo(end, middle);
    context.stroke();
    if (this.#endedAt === null) {
      context.fillStyle = context.strokeStyle;
      context.beginPath();
      context.arc(end - 2.5, middle, 2.5, 0, 7);
      context.fill();
    }
  }
}

function drawCross(context, x, y) {
  context.lineWidth = 2.2;
  context.beginPath();
  context.moveTo(x - 5, y - 5);
  context.lineTo(x + 5, y + 5);
  context.moveTo(x + 5, y - 5);
  context.lineTo(x - 5, y + 5);
  context.stroke();
}
