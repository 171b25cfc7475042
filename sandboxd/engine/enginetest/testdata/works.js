// What an allowlist of system calls that is too small would break, in Node.
const assert = require('assert'), child = require('child_process'), crypto = require('crypto'), fs = require('fs');
const http = require('http'), net = require('net'), os = require('os'), path = require('path'), zlib = require('zlib');
const { promisify } = require('util');
const { Worker, isMainThread, parentPort } = require('worker_threads');

async function main() {
  const dir = fs.mkdtempSync('/tmp/works-');
  process.chdir(dir);
  const answers = await Promise.all([...Array(4)].map(() => new Promise((resolve, reject) => {
    new Worker(__filename).on('message', resolve).on('error', reject);
  })));
  assert.deepEqual(answers, [499999500000, 499999500000, 499999500000, 499999500000]);

  assert.equal(child.execSync('echo hi').toString(), 'hi\n');
  assert.equal(child.spawnSync('sh', ['-c', 'kill -9 $$']).signal, 'SIGKILL');
  const cat = child.spawn('cat');
  cat.stdin.end('x'.repeat(200000));
  let size = 0;
  for await (const chunk of cat.stdout) size += chunk.length;
  assert.equal(size, 200000);
  fs.writeFileSync('fork.js', 'process.on("message", m => { process.send(m + 1); process.disconnect(); })');
  const fork = child.fork(path.join(dir, 'fork.js'));
  fork.send(1);
  assert.equal(await new Promise(resolve => fork.on('message', resolve)), 2);

  const server = http.createServer((_, res) => res.end('hi')).listen(0, '127.0.0.1');
  await new Promise(resolve => server.on('listening', resolve));
  assert.equal(await (await fetch(`http://127.0.0.1:${server.address().port}`)).text(), 'hi');
  server.closeAllConnections();
  server.close();
  const unix = net.createServer(c => c.end('x')).listen('s.sock');
  await new Promise(resolve => net.connect('s.sock').on('close', resolve).resume());
  unix.close();

  assert.equal((await promisify(require('dns').lookup)('127.0.0.1')).address, '127.0.0.1');
  const udp = require('dgram').createSocket('udp4').bind(0, '127.0.0.1');
  await new Promise(resolve => udp.on('listening', resolve));
  udp.send('x', udp.address().port, '127.0.0.1');
  await new Promise(resolve => udp.on('message', resolve));
  udp.close();
  try {
    assert.equal(os.networkInterfaces().lo[0].address, '127.0.0.1');
  } catch (err) { // there is no netlink under runc
    assert.equal(err.code, 'ERR_SYSTEM_ERROR', err);
  }

  fs.copyFileSync('fork.js', 'copy.js');
  fs.mkdirSync('a/b/c', { recursive: true });
  fs.cpSync('a', 'd', { recursive: true });
  fs.rmSync('d', { recursive: true });
  fs.symlinkSync('fork.js', 'link');
  fs.chmodSync('copy.js', 0o600);
  const watcher = fs.watch(dir, () => {});
  await fs.promises.writeFile('big', Buffer.alloc(10_000_000));
  await require('stream/promises').pipeline(fs.createReadStream('big'), zlib.createGzip(), fs.createWriteStream('big.gz'));
  watcher.close();
  await promisify(crypto.pbkdf2)('a', 'b', 10000, 32, 'sha256');
  await promisify(crypto.generateKeyPair)('rsa', { modulusLength: 1024 });
  new WebAssembly.Memory({ initial: 10, maximum: 100, shared: true });
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
  os.setPriority(1);
  os.cpus(), os.freemem(), os.loadavg(), os.uptime(), os.release(), process.memoryUsage(), process.resourceUsage();
  await import('node:timers/promises').then(t => t.setTimeout(10));
  console.log('all works');
}

if (isMainThread) {
  main().catch(err => { console.error(err); process.exit(1); });
} else {
  let sum = 0;
  for (let i = 0; i < 1e6; i++) sum += i;
  parentPort.postMessage(sum);
}
