#!/usr/bin/env node
// A minidask client in one file, without a library: it has a cluster compute pow(2, 10), and many more at once.
//
//     node examples/client.js ACCESS_FILE
//
// It follows docs/protocol.md from the top to the bottom, and has no more than a minimal client needs:
//
//     1. the certificate    the access file's secret makes a key, and that key makes a certificate
//     2. values             msgpack, for headers; a little of pickle, for calls and results
//     3. frames             a magic, lengths, a header, buffers
//     4. the handshake      both ends prove that they hold the secret
//     5. messages           Submit goes out, TaskDone comes back
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");
const tls = require("node:tls");

// --- 1. The certificate. Everybody who holds the secret makes the same one, so nobody has to send it around.

// DER, the encoding of certificates: a tag, a length, and the content.
function der(tag, ...contents) {
  const content = Buffer.concat(contents);
  const size = content.length;
  const length = size < 128 ? [size] : size < 256 ? [0x81, size] : [0x82, size >> 8, size & 255];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

function certificateOf(secret) {
  const seed = Buffer.from(crypto.hkdfSync("sha256", secret, "", "minidask tls key 1", 32));
  // PKCS #8 puts these bytes before the 32 bytes of any Ed25519 key, and SPKI those before its public half.
  const pkcs8 = Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]);
  const key = crypto.createPrivateKey({ key: pkcs8, format: "der", type: "pkcs8" });
  const publicKey = crypto.createPublicKey(key).export({ format: "der", type: "spki" });

  const ed25519 = der(0x30, der(0x06, Buffer.from([0x2b, 0x65, 0x70])));
  const commonName = der(0x30, der(0x06, Buffer.from([0x55, 0x04, 0x03])), der(0x0c, Buffer.from("minidask")));
  const name = der(0x30, der(0x31, commonName));
  const validity = der(0x30, der(0x17, Buffer.from("700101000000Z")), der(0x18, Buffer.from("99991231235959Z")));
  const version = der(0xa0, der(0x02, Buffer.from([2])));
  const serial = der(0x02, Buffer.from([1]));
  const unsigned = der(0x30, version, serial, ed25519, name, validity, name, publicKey);
  const signature = der(0x03, Buffer.from([0]), crypto.sign(null, unsigned, key));
  return { certificate: der(0x30, unsigned, ed25519, signature), key };
}

const pem = (der) => `-----BEGIN CERTIFICATE-----\n${der.toString("base64")}\n-----END CERTIFICATE-----\n`;

// --- 2. Values. A Buffer is msgpack's bin, a string its str, a number its int. This client sends no floats.

function sized(short, tags, size) {
  if (short !== null && size <= short[1]) return Buffer.from([short[0] | size]);
  const head = Buffer.alloc(5);
  if (size < 256 && tags[0]) return Buffer.from([tags[0], size]);
  if (size < 65536) return head.writeUInt16BE(size, 1), head.writeUInt8(tags[1], 0), head.subarray(0, 3);
  head.writeUInt8(tags[2], 0);
  head.writeUInt32BE(size, 1);
  return head;
}

function pack(value) {
  if (value === null || value === undefined) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (typeof value === "number" && value >= 0 && value < 128) return Buffer.from([value]);
  if (typeof value === "number") {
    const bytes = Buffer.alloc(9, 0xd3);
    bytes.writeBigInt64BE(BigInt(value), 1);
    return bytes;
  }
  if (typeof value === "string") {
    const text = Buffer.from(value);
    return Buffer.concat([sized([0xa0, 31], [0xd9, 0xda, 0xdb], text.length), text]);
  }
  if (Buffer.isBuffer(value)) return Buffer.concat([sized(null, [0xc4, 0xc5, 0xc6], value.length), value]);
  if (Array.isArray(value)) return Buffer.concat([sized([0x90, 15], [0, 0xdc, 0xdd], value.length), ...value.map(pack)]);
  const entries = Object.entries(value);
  return Buffer.concat([sized([0x80, 15], [0, 0xde, 0xdf], entries.length), ...entries.flat().map(pack)]);
}

function unpack(bytes) {
  let at = 0;
  const take = (size) => bytes.subarray(at, (at += size));
  const uint = (size) => take(size).readUIntBE(0, size);
  const array = (size) => Array.from({ length: size }, value);
  const map = (size) => Object.fromEntries(Array.from({ length: size }, () => [value(), value()]));
  function value() {
    const tag = uint(1);
    if (tag < 0x80) return tag;
    if (tag < 0x90) return map(tag & 15);
    if (tag < 0xa0) return array(tag & 15);
    if (tag < 0xc0) return take(tag & 31).toString();
    if (tag >= 0xe0) return tag - 256;
    if (tag === 0xc0) return null;
    if (tag === 0xc2 || tag === 0xc3) return tag === 0xc3;
    if (tag >= 0xc4 && tag <= 0xc6) return take(uint(1 << (tag - 0xc4)));
    if (tag === 0xca) return take(4).readFloatBE(0);
    if (tag === 0xcb) return take(8).readDoubleBE(0);
    if (tag >= 0xcc && tag <= 0xce) return uint(1 << (tag - 0xcc));
    if (tag === 0xcf) return Number(take(8).readBigUInt64BE(0));
    if (tag >= 0xd0 && tag <= 0xd2) return take(1 << (tag - 0xd0)).readIntBE(0, 1 << (tag - 0xd0));
    if (tag === 0xd3) return Number(take(8).readBigInt64BE(0));
    if (tag >= 0xd9 && tag <= 0xdb) return take(uint(1 << (tag - 0xd9))).toString();
    if (tag === 0xdc || tag === 0xdd) return array(uint(tag === 0xdc ? 2 : 4));
    if (tag === 0xde || tag === 0xdf) return map(uint(tag === 0xde ? 2 : 4));
    throw new Error(`no msgpack: ${tag}`);
  }
  return value();
}

// The payload of a call is the pickle of (function, args, kwargs). Pickle is a little program for a stack: this one
// pushes a function by name, then the arguments, an empty dict, and makes a tuple of the three.
function pickleCall(module, name, ...numbers) {
  const arguments_ = numbers.map((number) => {
    const int = Buffer.from("J....");
    int.writeInt32LE(number, 1);
    return int;
  });
  const latin1 = (text) => Buffer.from(text, "latin1");
  return Buffer.concat([latin1(`\x80\x02c${module}\n${name}\n(`), ...arguments_, latin1("t}\x87.")]);
}

// Results are pickled by Python. This reads the numbers among them, and leaves the rest alone.
function unpickleNumber(bytes) {
  let at = 2; // after the protocol
  if (bytes[at] === 0x95) at += 9; // a frame of pickle
  const kind = String.fromCharCode(bytes[at++]);
  if (kind === "K") return bytes.readUInt8(at);
  if (kind === "M") return bytes.readUInt16LE(at);
  if (kind === "J") return bytes.readInt32LE(at);
  if (kind === "G") return bytes.readDoubleBE(at);
  if (kind === "\x8a") return [...bytes.subarray(at + 1, at + 1 + bytes[at])].reduceRight((sum, byte) => sum * 256n + BigInt(byte), 0n);
  throw new Error("the result is no number");
}

// --- 3. Frames.

function frame(header, buffers = []) {
  const bytes = pack(header);
  const head = Buffer.alloc(8 + 8 * buffers.length);
  head.write("mD");
  head.writeUInt16LE(buffers.length, 2);
  head.writeUInt32LE(bytes.length, 4);
  buffers.forEach((buffer, i) => head.writeBigUInt64LE(BigInt(buffer.length), 8 + 8 * i));
  return Buffer.concat([head, bytes, ...buffers]);
}

// Yields each frame of a stream, which arrives in any pieces.
async function* frames(socket) {
  let bytes = Buffer.alloc(0);
  for await (const piece of socket) {
    bytes = Buffer.concat([bytes, piece]);
    for (;;) {
      if (bytes.length < 8) break;
      if (bytes.toString("latin1", 0, 2) !== "mD") throw new Error("the other side does not speak minidask's protocol");
      const sizes = Array.from({ length: bytes.readUInt16LE(2) }, (_, i) => 8 + 8 * i);
      const begin = 8 + 8 * sizes.length;
      if (bytes.length < begin) break;
      const ends = [begin + bytes.readUInt32LE(4)];
      for (const place of sizes) ends.push(ends.at(-1) + Number(bytes.readBigUInt64LE(place)));
      if (bytes.length < ends.at(-1)) break;
      const header = bytes.subarray(begin, ends[0]);
      yield { header, buffers: sizes.map((_, i) => bytes.subarray(ends[i], ends[i + 1])) };
      bytes = bytes.subarray(ends.at(-1));
    }
  }
}

// --- 4. The handshake. Each proof covers all that was said before it, and both certificates.

function proof(secret, label, ...parts) {
  const hmac = crypto.createHmac("sha256", secret).update(label);
  for (const part of parts) {
    const size = Buffer.alloc(4);
    size.writeUInt32LE(part.length);
    hmac.update(size).update(part);
  }
  return hmac.digest();
}

async function next(incoming) {
  const { value, done } = await incoming.next();
  if (done) throw new Error("the scheduler closed the connection");
  return value;
}

async function shakeHands(socket, incoming, secret, certificate) {
  const sha256 = (bytes) => crypto.createHash("sha256").update(bytes).digest();
  const binding = Buffer.concat([sha256(socket.getPeerCertificate().raw), sha256(certificate)]);
  const hello = ["hello", 4, "0.1.0", "client", crypto.randomBytes(32)];
  socket.write(frame(hello));
  const [kind, , , nonce, theirs] = unpack((await next(incoming)).header);
  if (kind !== "challenge") throw new Error(`refused: ${theirs ?? nonce}`);
  const expected = proof(secret, "minidask acceptor", binding, pack(hello), nonce);
  if (!crypto.timingSafeEqual(expected, theirs)) throw new Error("the other side does not hold the secret");
  const info = pack(["info", { name: "client.js", host: require("node:os").hostname(), pid: process.pid }]);
  socket.write(frame(["proof", proof(secret, "minidask initiator", binding, pack(hello), nonce, theirs, info), info]));
  const [welcome, more, text] = unpack((await next(incoming)).header);
  if (welcome !== "welcome") throw new Error(`refused: ${more}: ${text}`);
  return more;
}

// --- 5. Messages, by their codes.

const SUBMIT = 4, TASK_DONE = 9, TASK_RAISED = 10, TASK_LOST = 11, GOODBYE = 14;

async function main([accessFile]) {
  const [digits, ...words] = fs.readFileSync(accessFile, "utf8").trim().split(" ");
  const secret = Buffer.from(digits, "hex");
  const { hostname, port } = new URL(words.find((word) => word.startsWith("tcp://")).replace("tcp:", "http:"));
  const host = hostname.replace(/[[\]]/g, "");

  const { certificate, key } = certificateOf(secret);
  const own = { cert: pem(certificate), ca: pem(certificate), key: key.export({ format: "pem", type: "pkcs8" }) };
  const anyHost = () => undefined; // a peer is known by the secret that it holds
  const socket = tls.connect({ host, port, minVersion: "TLSv1.3", ...own, checkServerIdentity: anyHost });
  await new Promise((resolve, reject) => socket.once("secureConnect", resolve).once("error", reject));
  if (!socket.getPeerCertificate().raw.equals(certificate)) throw new Error("that is another cluster's certificate");

  const incoming = frames(socket);
  const welcome = await shakeHands(socket, incoming, secret, certificate);
  console.log(`connected to a scheduler of minidask ${welcome.version}`);

  const expected = new Map();
  for (let task = 1; task <= 100; task++) {
    const call = pickleCall("builtins", "pow", 2, task % 31);
    //                    task, name, priority, timeout, group, pin, blobs, parent, lease, resources
    socket.write(frame([SUBMIT, task, "pow", 0, null, 0, null, [], [], false, {}], [call]));
    expected.set(task, 2 ** (task % 31));
  }
  while (expected.size) {
    const { header, buffers } = await next(incoming);
    const [code, task, ...rest] = unpack(header);
    if (code === GOODBYE) throw new Error(`the scheduler says: ${task}`);
    if (code === TASK_RAISED) throw new Error(rest[2]);
    if (code === TASK_LOST) throw new Error(`task ${task} is lost: ${rest.join(", ")}`);
    if (code !== TASK_DONE) continue; // of workers, output, heartbeats: not for a minimal client
    const result = unpickleNumber(buffers[0]);
    if (result !== expected.get(task)) throw new Error(`2 ** ${task % 31} is not ${result}`);
    expected.delete(task);
    if (task === 10) console.log(`pow(2, 10) = ${result}, computed by ${rest[1]}`);
  }
  console.log("100 calls were right");
  socket.end();
}

if (require.main === module) {
  main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exit(1); // the connection would keep it alive
  });
}
