// What a WebSocket server promises, asked for over several ways by Node's own clients of HTTP/1.1 and HTTP/2.
//
// The first argument is JSON: the addresses of each way, its certificate authority, and how many sockets of one client
// the server `few` takes. The output is JSON: for each way the outcome of each claim, as text.
"use strict";

const { strict: assert } = require("node:assert");
const crypto = require("node:crypto");
const http = require("node:http");
const http2 = require("node:http2");
const https = require("node:https");

const SETTINGS = JSON.parse(process.argv[2]);
const TIMEOUT = 10_000;
const TEXT = 0x81, BINARY = 0x82, CLOSE = 0x88, PING = 0x89, PONG = 0x8a;

function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${TIMEOUT} ms: ${what}`)), TIMEOUT);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** An open WebSocket over any stream of bytes. */
class Socket {
  constructor(stream, head, protocol) {
    this.stream = stream;
    this.protocol = protocol;
    this.unread = head;
    this.ended = false;
    this.wake = () => {};
    const end = () => {
      this.ended = true;
      this.wake();
    };
    stream.on("data", (chunk) => {
      this.unread = Buffer.concat([this.unread, chunk]);
      this.wake();
    });
    stream.on("end", end).on("close", end).on("error", end);
  }

  send(first, payload = "", masked = true) {
    const bytes = Buffer.from(payload);
    const bit = masked ? 0x80 : 0;
    let head;
    if (bytes.length < 126) {
      head = Buffer.from([first, bit | bytes.length]);
    } else if (bytes.length < 65_536) {
      head = Buffer.from([first, bit | 126, bytes.length >> 8, bytes.length & 0xff]);
    } else {
      head = Buffer.alloc(10);
      head[0] = first;
      head[1] = bit | 127;
      head.writeBigUInt64BE(BigInt(bytes.length), 2);
    }
    if (masked) {
      const mask = crypto.randomBytes(4);
      head = Buffer.concat([head, mask]);
      for (let at = 0; at < bytes.length; at++) bytes[at] ^= mask[at & 3];
    }
    this.stream.write(Buffer.concat([head, bytes]));
  }

  frame() {
    if (this.unread.length < 2) return null;
    const [first, second] = this.unread;
    assert.equal(second & 0x80, 0, "a server does not mask");
    let [start, length] = [2, second];
    if (second === 126) {
      if (this.unread.length < 4) return null;
      [start, length] = [4, this.unread.readUInt16BE(2)];
    } else if (second === 127) {
      if (this.unread.length < 10) return null;
      [start, length] = [10, Number(this.unread.readBigUInt64BE(2))];
    }
    if (this.unread.length < start + length) return null;
    const payload = this.unread.subarray(start, start + length);
    this.unread = this.unread.subarray(start + length);
    return { first, payload };
  }

  /** The next frame, or null when the stream has ended. */
  next() {
    return within(new Promise((resolve, reject) => {
      this.wake = () => {
        try {
          const frame = this.frame();
          if (!frame && !this.ended) return;
          // What comes before somebody asks again stays unread.
          this.wake = () => {};
          resolve(frame);
        } catch (error) {
          reject(error);
        }
      };
      this.wake();
    }), "a frame");
  }

  async text() {
    const frame = await this.next();
    assert.equal(frame?.first, TEXT, `${JSON.stringify(frame)} in place of text`);
    return frame.payload.toString();
  }

  /** The code that the server closes with, and that nothing follows. */
  async closed() {
    const frame = await this.next();
    assert.equal(frame?.first, CLOSE, `${JSON.stringify(frame)} in place of a close frame`);
    const code = frame.payload.length ? frame.payload.readUInt16BE(0) : 1005;
    this.send(CLOSE, frame.payload);
    assert.equal(await this.next(), null, "something follows a close frame");
    this.stream.end();
    return `${code}`;
  }

  close(code) {
    this.send(CLOSE, code ? Buffer.from([code >> 8, code & 0xff]) : "");
    return this.closed();
  }
}

const key = "dGhlIHNhbXBsZSBub25jZQ==";
const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/** What a refusal says: its status and first word. */
async function refusal(status, stream) {
  let body = "";
  for await (const chunk of stream) body += chunk;
  return `${status} ${body.split(":")[0].trim()}`;
}

/** HTTP/1.1, in clear or over TLS. */
class OverHttp1 {
  constructor(url) {
    this.url = new URL(url);
    this.client = this.url.protocol === "https:" ? https : http;
  }

  request(path, headers) {
    const options = { path, headers, ca: SETTINGS.ca, agent: false };
    return within(new Promise((resolve, reject) => {
      const request = this.client.request(this.url, options);
      request.on("error", reject);
      request.on("response", (response) => resolve(refusal(response.statusCode, response)));
      request.on("upgrade", (response, stream, head) => {
        assert.equal(response.headers["sec-websocket-accept"], accept);
        resolve(new Socket(stream, head, response.headers["sec-websocket-protocol"]));
      });
      request.end();
    }), path);
  }

  open(path, headers) {
    const handshake = { Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Key": key };
    return this.request(path, { ...handshake, "Sec-WebSocket-Version": "13", ...headers });
  }

  end() {}
}

/** HTTP/2: all sockets in one connection. */
class OverHttp2 {
  constructor(url) {
    this.url = new URL(url);
    this.session = http2.connect(url, { ca: SETTINGS.ca });
    this.ready = within(new Promise((resolve, reject) => {
      this.session.on("error", reject);
      this.session.on("remoteSettings", (settings) => settings.enableConnectProtocol && resolve());
    }), "the settings");
  }

  async request(path, headers) {
    await this.ready;
    const connect = headers[":method"] === "CONNECT";
    const stream = this.session.request({ ":path": path, ...headers }, { endStream: !connect });
    const answer = await within(new Promise((resolve, reject) => {
      stream.on("error", reject);
      stream.on("response", resolve);
    }), path);
    if (connect && answer[":status"] === 200) {
      return new Socket(stream, Buffer.alloc(0), answer["sec-websocket-protocol"]);
    }
    return refusal(answer[":status"], stream);
  }

  open(path, headers) {
    const handshake = { ":method": "CONNECT", ":protocol": "websocket", "sec-websocket-version": "13" };
    return this.request(path, { ...handshake, ...headers });
  }

  end() {
    this.session.close();
  }
}

async function echo() {
  const socket = await this.open("/echo/", {});
  if (typeof socket === "string") throw new Error(socket);
  return socket;
}

const CLAIMS = {
  async "text comes back"(way) {
    const socket = await echo.call(way);
    socket.send(TEXT, "hello \u{1f680}");
    const said = await socket.text();
    await socket.close(1000);
    return said;
  },
  async "bytes come back"(way) {
    const socket = await echo.call(way);
    const sent = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
    socket.send(BINARY, sent);
    const frame = await socket.next();
    await socket.close(1000);
    return `${frame.first === BINARY && frame.payload.equals(sent)}`;
  },
  async "60 KiB come back"(way) {
    const socket = await echo.call(way);
    const sent = crypto.randomBytes(60 * 1024);
    socket.send(BINARY, sent);
    const frame = await socket.next();
    await socket.close(1000);
    return `${frame.payload.equals(sent)}`;
  },
  async "1000 messages come back in order"(way) {
    const socket = await echo.call(way);
    for (let at = 0; at < 1000; at++) socket.send(TEXT, `${at}`);
    for (let at = 0; at < 1000; at++) assert.equal(await socket.text(), `${at}`);
    return socket.close(1000);
  },
  async "fragments are put together, with a ping between"(way) {
    const socket = await echo.call(way);
    socket.send(0x01, "one ");
    socket.send(PING, "between");
    socket.send(0x00, "two ");
    socket.send(0x80, "three");
    const pong = await socket.next();
    assert.equal(pong.first, PONG);
    const said = await socket.text();
    await socket.close(1000);
    return `${pong.payload}, ${said}`;
  },
  "close 1000": async (way) => (await echo.call(way)).close(1000),
  "close 4001": async (way) => (await echo.call(way)).close(4001),
  "close without a code": async (way) => (await echo.call(way)).close(),
  async "a frame without a mask"(way) {
    const socket = await echo.call(way);
    socket.send(TEXT, "x", false);
    return socket.closed();
  },
  async "a reserved bit"(way) {
    const socket = await echo.call(way);
    socket.send(0xc1, "x");
    return socket.closed();
  },
  async "text that is not UTF-8"(way) {
    const socket = await echo.call(way);
    socket.send(TEXT, Buffer.from([0xff]));
    return socket.closed();
  },
  async "a message above max_message"(way) {
    const socket = await echo.call(way);
    socket.send(BINARY, Buffer.alloc(64 * 1024 + 1));
    return socket.closed();
  },
  async "more than rate allows"(way) {
    const socket = await way.open("/rate/", {});
    for (let at = 0; at < 6; at++) socket.send(TEXT, `${at}`);
    for (let at = 0; at < 5; at++) assert.equal(await socket.text(), `${at}`);
    return socket.closed();
  },
  async "pings are answered"(way) {
    const socket = await way.open("/pinged/", {});
    for (let at = 0; at < 5; at++) {
      const ping = await socket.next();
      assert.equal(ping.first, PING);
      socket.send(PONG, ping.payload);
    }
    socket.send(TEXT, "alive");
    const said = await socket.text();
    await socket.close(1000);
    return said;
  },
  async "pings are not answered"(way) {
    const socket = await way.open("/pinged/", {});
    assert.equal((await socket.next()).first, PING);
    return socket.closed();
  },
  async "a subprotocol that is spoken"(way) {
    const socket = await way.open("/protocol/", { "Sec-WebSocket-Protocol": "other, chat" });
    await socket.close(1000);
    return socket.protocol;
  },
  "one that is not": (way) => way.open("/protocol/", { "Sec-WebSocket-Protocol": "other" }),
  async "its own origin"(way) {
    const socket = await way.open("/echo/", { Origin: way.url.origin });
    return socket.close(1000);
  },
  "a foreign origin": (way) => way.open("/echo/", { Origin: "https://evil.example" }),
  "the origin with another port": (way) => way.open("/echo/", { Origin: `${way.url.protocol}//localhost:1` }),
  "no such route": (way) => way.open("/nowhere/", {}),
  "a route of plain requests": (way) => way.open("/page", {}),
  "another version": (way) => way.open("/echo/", { "Sec-WebSocket-Version": "12" }),
  "a plain request to a socket's route": (way) => way.request("/echo/", {}),
  "a plain request": (way) => way.request("/page", {}),
};

/** Sockets of one client beyond its limit are refused until another one goes. */
async function perIp(way) {
  const said = [];
  const sockets = [];
  for (let at = 0; at < SETTINGS.few_per_ip; at++) sockets.push(await echo.call(way));
  said.push(await way.open("/echo/", {}));
  said.push(await sockets.pop().close(1000));
  // The server counts it until it has seen the end.
  const deadline = Date.now() + TIMEOUT;
  let again = "never";
  while (Date.now() < deadline) {
    again = await way.open("/echo/", {});
    if (typeof again !== "string") break;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  sockets.push(again);
  for (const socket of sockets) said.push(await socket.close(1000));
  return said.join(", ");
}

/** Members of one room, each by another way, hear each other. */
async function oneRoom(ways) {
  const members = [];
  for (const way of ways) members.push(await way.open("/room/", {}));
  for (const [at, member] of members.entries()) {
    member.send(TEXT, `from ${at}`);
    for (const listener of members) assert.equal(await listener.text(), `from ${at}`);
  }
  for (const member of members) await member.close(1000);
  return "all";
}

const over = (url, version) => (version === 2 ? new OverHttp2(url) : new OverHttp1(url));

const outcome = (proof) => proof.catch((error) => `${error.stack}`);

async function main() {
  const outcomes = {};
  const ways = [];
  for (const [name, { url, few, version }] of Object.entries(SETTINGS.ways)) {
    const way = over(url, version);
    ways.push(way);
    outcomes[name] = {};
    for (const [claim, prove] of Object.entries(CLAIMS)) outcomes[name][claim] = await outcome(prove(way));
    const other = over(few, version);
    outcomes[name]["more sockets than limits.per_ip"] = await outcome(perIp(other));
    other.end();
  }
  outcomes.room = await outcome(oneRoom(ways));
  for (const way of ways) way.end();
  // Sockets that a failed claim has left open are not waited for.
  process.stdout.write(JSON.stringify(outcomes), () => process.exit());
}

main();
