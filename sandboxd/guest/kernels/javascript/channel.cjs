// Sends the messages to the guest: one JSON object a line on fd 4. The guest answers each `sync` and `begun` with one
// byte on fd 5.
'use strict';

const fs = require('node:fs');

const MESSAGES = 4;
const ACKS = 5;
const GATHER_MS = 30;
const GATHER_LENGTH = 8 << 10;
// This many writes are sent at once before gathering begins. So if a loop prints little and then never returns to the
// event loop, all of its output is shown.
const AT_ONCE = 32;
const CHUNK = 1 << 20;
const MAX_LINE = 16 << 20;

// Captured before user code can change them.
const { writeSync, readSync } = fs;
const { stringify } = JSON;
const { now } = Date;
const { setTimeout, Buffer } = globalThis;

class Channel {
  constructor() {
    this.id = null; // the id of the running execution
    this.source = null; // the type (stdout or stderr) and execution id of the gathered text
    this.gathered = '';
    this.timer = null;
    this.window = 0; // when the counting of writes began
    this.writes = 0;
    this.unsent = Buffer.alloc(0); // the rest of a line, in case SIGINT ends a script while it writes the line
  }

  /** Begins an execution. Returns when the guest has read all earlier output, so that later output belongs to the execution. */
  begin(id) {
    this.flush();
    this.id = id;
    this.writes = 0;
    this.ask({ type: 'begun', id });
  }

  text(type, text) {
    const { id } = this;
    if (this.source && (this.source.type !== type || this.source.id !== id)) this.flush();
    this.source = { type, id };
    this.gathered += text;
    const time = now();
    if (time - this.window > GATHER_MS) {
      this.window = time;
      this.writes = 0;
    }
    if (++this.writes <= AT_ONCE || this.gathered.length >= GATHER_LENGTH) this.flush();
    else this.timer ??= setTimeout(() => this.flush(), GATHER_MS).unref();
  }

  /** Sends a message after all text before it. Returns false if the message is too long. */
  send(message) {
    this.flush();
    return this.line(message);
  }

  done(status) {
    this.send({ type: 'done', id: this.id, status });
    this.id = null;
  }

  /** Returns when the guest has read everything sent before, so that the output of a subprocess comes after it. */
  sync() {
    this.ask({ type: 'sync' });
  }

  /** Sends a message and waits for the byte with which the guest answers. */
  ask(message) {
    this.send(message);
    for (;;) {
      try {
        readSync(ACKS, Buffer.alloc(1));
        return;
      } catch (error) {
        if (error.code !== 'EAGAIN') return;
        pause();
      }
    }
  }

  flush() {
    if (this.timer) {
      clearTimeout(this.timer);
      this.timer = null;
    }
    const { source, gathered: text } = this;
    if (!text) return;
    this.gathered = '';
    for (let start = 0; start < text.length; start += CHUNK) this.line({ ...source, text: text.slice(start, start + CHUNK) });
  }

  line(message) {
    const line = Buffer.from(stringify(message) + '\n');
    if (line.length > MAX_LINE) return false;
    this.unsent = this.unsent.length ? Buffer.concat([this.unsent, line]) : line;
    while (this.unsent.length) {
      try {
        this.unsent = this.unsent.subarray(writeSync(MESSAGES, this.unsent));
      } catch (error) {
        if (error.code !== 'EAGAIN') throw error;
        pause();
      }
    }
    return true;
  }
}

const never = new Int32Array(new SharedArrayBuffer(4));

function pause() {
  Atomics.wait(never, 0, 0, 1);
}

module.exports = { Channel };
