// A device at level 0: it sends updates and ignores every message and field it does not know.
//
//   npm install ws
//   node level0.js                        # beside `make run`, which needs no token on this machine
//   node level0.js ws://host:8080 10      # another gateway; stop after 10 messages
//
// At level 0 nothing is numbered, so nothing is acked: what was on its way as a connection broke may be lost.

const WebSocket = require('ws');

const url = process.argv[2] || 'ws://localhost:8080';
const count = Number(process.argv[3] || 0); // 0: for ever
const everyMs = Number(process.argv[4] || 2) * 1000;
let sent = 0;
let failures = 0;

function connect() {
  const ws = new WebSocket(url);
  const begun = Date.now();
  let timer;

  function sendReading() {
    if (count !== 0 && sent >= count) return ws.close(1000);
    ws.send(JSON.stringify({
      device_id: 'sensor-001',
      type: 'temperature_update',
      value: 23.5,
      timestamp: new Date().toISOString(),
    }));
    sent += 1;
  }

  ws.on('open', () => {
    console.log('connected');
    sendReading();
    timer = setInterval(sendReading, everyMs);
  });
  ws.on('message', (data) => console.log('received', data.toString()));
  ws.on('error', (error) => console.log('error', error.message));
  ws.on('close', (code) => {
    clearInterval(timer);
    console.log('closed', code);
    if (count !== 0 && sent >= count) return;
    // Never after a fixed time: all devices of a gateway that restarts would return together.
    if (Date.now() - begun > 60_000) failures = 0;
    setTimeout(connect, Math.random() * Math.min(60_000, 1_000 * 2 ** failures));
    failures += 1;
  });
}

connect();
