// Has a device do something and prints what became of it: node command.js API_URL TOKEN DEVICE [NAME [PARAMS]]
// Nothing but Node 18 or later.
const { randomUUID } = require("node:crypto");

async function send(api, token, device, name, params, ttl_s = 60, wait_s = 20) {
  const request = {
    method: "POST",
    headers: {
      Authorization: `Bearer ${token}`,
      "Content-Type": "application/json",
      // One key for one wish: asking again with it never makes the device do it twice.
      "Idempotency-Key": randomUUID(),
    },
    body: JSON.stringify({ name, params, ttl_s, wait_s }),
  };
  for (let attempt = 0; ; attempt++) {
    let wait = 1;
    try {
      const answer = await fetch(`${api}/v1/devices/${device}/commands`, request);
      const body = await answer.json();
      if (answer.ok) return body;
      const later = answer.status === 429 || answer.status === 503;
      if (!later || attempt === 5) throw Object.assign(new Error(`${body.status}: ${body.detail}`), { final: true });
      wait = Number(answer.headers.get("retry-after") ?? 1);
    } catch (error) {
      if (error.final || attempt === 5) throw error;
    }
    await new Promise((done) => setTimeout(done, wait * 1000));
  }
}

const [api, token, device, name = "blink", params = '{"times":3}'] = process.argv.slice(2);
send(api, token, device, name, JSON.parse(params)).then(
  (command) => {
    console.log(JSON.stringify(command));
    process.exitCode = command.state === "succeeded" ? 0 : 1;
  },
  (error) => {
    console.error(error.message);
    process.exitCode = 1;
  },
);
