// Node's HTTP/2 and the `ws` package through TLS. Arguments: the port, the file with the authority's certificate, the
// folder with `ws`. What it prints at the end says that all claims held.
"use strict";

const assert = require("node:assert");
const fs = require("node:fs");
const http2 = require("node:http2");
const path = require("node:path");
const { once } = require("node:events");

const [port, authority, modules] = process.argv.slice(2);
const WebSocket = require(path.join(modules, "ws"));
const ca = fs.readFileSync(authority);

/** A masked frame of a short text. */
function frame(opcode, payload) {
  const bytes = Buffer.from(payload);
  assert(bytes.length < 126);
  return Buffer.concat([Buffer.from([0x80 | opcode, 0x80 | bytes.length, 0, 0, 0, 0]), bytes]);
}

async function overHttp2() {
  const session = http2.connect(`https://localhost:${port}`, { ca });
  await once(session, "remoteSettings");
  assert(session.remoteSettings.enableConnectProtocol);
  const open = async (path) => {
    const stream = session.request({
      ":method": "CONNECT", ":protocol": "websocket", ":scheme": "https", ":authority": `localhost:${port}`,
      ":path": path, "sec-websocket-version": "13", origin: `https://localhost:${port}`,
    });
    const [headers] = await once(stream, "response");
    return [stream, headers[":status"]];
  };
  const [one, status] = await open("/echo/");
  const [two] = await open("/room/node/");
  assert.strictEqual(status, 200);
  one.write(frame(1, "one"));
  assert.deepStrictEqual((await once(one, "data"))[0], Buffer.from("\x81\x03one", "latin1"));
  two.write(frame(1, '{"message": "two"}'));
  assert.match((await once(two, "data"))[0].toString("latin1"), /\{"message":"two"\}$/);
  // A plain request between them.
  const page = session.request({ ":path": "/page" });
  page.setEncoding("utf8");
  assert.strictEqual((await once(page, "data"))[0], "the page\n");
  one.write(frame(8, Buffer.from([0x03, 0xe8])));
  assert.deepStrictEqual((await once(one, "data"))[0], Buffer.from([0x88, 0x02, 0x03, 0xe8]));
  await once(one, "end");
  assert.strictEqual((await open("/nowhere/"))[1], 404);
  session.destroy();
}

async function overHttp1() {
  const socket = new WebSocket(`wss://localhost:${port}/echo/`, ["chat"], { ca });
  await once(socket, "open");
  assert.strictEqual(socket.protocol, "chat");
  // It offers permessage-deflate, which is not agreed on.
  assert.strictEqual(socket.extensions, "");
  socket.send("x".repeat(200_000));
  assert.strictEqual((await once(socket, "message"))[0].length, 200_000);
  socket.ping("there?");
  assert.strictEqual((await once(socket, "pong"))[0].toString(), "there?");
  socket.close(4001, "enough");
  assert.strictEqual((await once(socket, "close"))[0], 4001);
}

overHttp2().then(overHttp1).then(() => console.log("all hold"), (error) => {
  console.error(error);
  process.exit(1);
});
