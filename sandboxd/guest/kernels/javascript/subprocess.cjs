// Makes sure that output of child processes on fds 1 and 2 does not overtake what the code printed before it.
'use strict';

const childProcess = require('node:child_process');
const { syncBuiltinESMExports } = require('node:module');

function install(channel, interrupts) {
  const before = (object, name) => {
    const original = object[name];
    object[name] = function (...parameters) {
      channel.sync();
      // SIGINT was sent before the child exists, so it would not end the child, and the code would wait for the
      // child.
      if (interrupts.pending) throw new Error('the execution was interrupted');
      return original.apply(this, parameters);
    };
  };
  before(childProcess.ChildProcess.prototype, 'spawn'); // spawn, exec, execFile and fork all call it
  for (const name of ['spawnSync', 'execSync', 'execFileSync']) before(childProcess, name);
  syncBuiltinESMExports();
}

module.exports = { install };
