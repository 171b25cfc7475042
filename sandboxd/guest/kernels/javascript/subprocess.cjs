// What a child process prints on our fds 1 and 2 must not overtake what the code printed before it.
'use strict';

const childProcess = require('node:child_process');
const { syncBuiltinESMExports } = require('node:module');

function install(channel, interrupts) {
  const before = (object, name) => {
    const original = object[name];
    object[name] = function (...parameters) {
      channel.sync();
      // SIGINT has missed the child that does not exist yet, and we would wait for it.
      if (interrupts.pending) throw new Error('the execution was interrupted');
      return original.apply(this, parameters);
    };
  };
  before(childProcess.ChildProcess.prototype, 'spawn'); // spawn, exec, execFile and fork all come here
  for (const name of ['spawnSync', 'execSync', 'execFileSync']) before(childProcess, name);
  syncBuiltinESMExports();
}

module.exports = { install };
