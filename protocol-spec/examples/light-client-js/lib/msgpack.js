// Canonical MessagePack (chapter 2): one byte form per value. A reader refuses every other form where it meets it.
// Clauses: the forms are 2.1/1 to 2.1/4, records 2.2, bounds 2.3, whole inputs 2.4.
//
// A *type* has `encode(value)`, `read(reader)`, and `fromJson(value)` for the text form of genesis (10.7/2). A field of
// integers that fit a JavaScript number gives numbers; one whose bound lies above 2^53 always gives a BigInt, so that a
// program never mixes the two by accident.

import { malformed, oversized } from './errors.js';
import { concat } from './bytes.js';

class Reader {
  constructor(bytes) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    this.offset = 0;
  }

  get left() {
    return this.bytes.length - this.offset;
  }

  take(count) {
    if (count > this.left) throw malformed(`encoding is cut off: ${count} bytes expected, ${this.left} left`);
    this.offset += count;
    return this.bytes.subarray(this.offset - count, this.offset);
  }

  peek() {
    if (this.left < 1) throw malformed('encoding is cut off');
    return this.bytes[this.offset];
  }

  /** A length or number of 1, 2 or 4 bytes, big-endian as in MessagePack, that no shorter form could hold. */
  sized(bytes, least) {
    const value = this.take(bytes).readUIntBE(0, bytes);
    if (value < least) throw malformed(`${value} is written longer than it needs to be`);
    return value;
  }

  int() {
    const head = this.take(1)[0];
    if (head <= 0x7f) return BigInt(head);
    if (head >= 0xe0) return BigInt(head - 0x100);
    switch (head) {
      case 0xcc:
        return BigInt(this.sized(1, 0x80));
      case 0xcd:
        return BigInt(this.sized(2, 0x100));
      case 0xce:
        return BigInt(this.sized(4, 0x10000));
      case 0xcf:
        return this.shortest(this.take(8).readBigUInt64BE(), (value) => value > 0xffffffffn);
      case 0xd0:
        return this.shortest(BigInt(this.take(1).readInt8()), (value) => value < -32n);
      case 0xd1:
        return this.shortest(BigInt(this.take(2).readInt16BE()), (value) => value < -0x80n);
      case 0xd2:
        return this.shortest(BigInt(this.take(4).readInt32BE()), (value) => value < -0x8000n);
      case 0xd3:
        return this.shortest(this.take(8).readBigInt64BE(), (value) => value < -0x80000000n);
      default:
        throw malformed(`type byte 0x${head.toString(16)} where an integer is expected`);
    }
  }

  shortest(value, needsIt) {
    if (!needsIt(value)) throw malformed(`${value} is written longer than it needs to be`);
    return value;
  }

  binary() {
    const head = this.take(1)[0];
    if (head < 0xc4 || head > 0xc6) throw malformed(`type byte 0x${head.toString(16)} where bytes are expected`);
    const bytes = 1 << (head - 0xc4);
    return this.take(this.sized(bytes, [0, 0x100, 0x10000][head - 0xc4]));
  }

  text() {
    const head = this.take(1)[0];
    if (head >= 0xa0 && head <= 0xbf) return this.utf8(head - 0xa0);
    if (head < 0xd9 || head > 0xdb) throw malformed(`type byte 0x${head.toString(16)} where text is expected`);
    return this.utf8(this.sized(1 << (head - 0xd9), [32, 0x100, 0x10000][head - 0xd9]));
  }

  utf8(count) {
    const bytes = this.take(count);
    try {
      return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      throw malformed('text is not UTF-8');
    }
  }

  arrayLength() {
    const head = this.take(1)[0];
    if (head >= 0x90 && head <= 0x9f) return head - 0x90;
    if (head === 0xdc) return this.sized(2, 16);
    if (head === 0xdd) return this.sized(4, 0x10000);
    throw malformed(`type byte 0x${head.toString(16)} where an array is expected`);
  }
}

/** A head byte with the value after it in 1, 2, 4 or 8 bytes, big-endian. */
function headed(head, value, bytes) {
  const out = Buffer.alloc(1 + bytes);
  out[0] = head;
  if (bytes === 8) out.writeBigInt64BE(BigInt.asIntN(64, BigInt(value)), 1);
  else out.writeUIntBE(value < 0 ? Number(value) + 2 ** (8 * bytes) : Number(value), 1, bytes);
  return out;
}

function encodeInt(number) {
  const value = BigInt(number);
  if (value >= 0n) {
    if (value <= 0x7fn) return Buffer.of(Number(value));
    if (value <= 0xffn) return headed(0xcc, value, 1);
    if (value <= 0xffffn) return headed(0xcd, value, 2);
    if (value <= 0xffffffffn) return headed(0xce, value, 4);
    return headed(0xcf, value, 8);
  }
  if (value >= -32n) return Buffer.of(0x100 + Number(value));
  if (value >= -0x80n) return headed(0xd0, value, 1);
  if (value >= -0x8000n) return headed(0xd1, value, 2);
  if (value >= -0x80000000n) return headed(0xd2, value, 4);
  return headed(0xd3, value, 8);
}

function lengthHead(length, [fixedHead, fixedBelow], heads) {
  if (length < fixedBelow) return Buffer.of(fixedHead + length);
  if (heads[1] && length <= 0xff) return headed(heads[1], length, 1);
  if (length <= 0xffff) return headed(heads[2], length, 2);
  return headed(heads[4], length, 4);
}

// Values of the JSON text form (10.7/2), in which genesis.js has made objects of the integers.

function jsonInt(value) {
  if (!/^(0|-?[1-9]\d*)$/.test(value?.int ?? ''))
    throw malformed(`${JSON.stringify(value)} where an integer is expected`);
  return BigInt(value.int);
}

function jsonText(value) {
  if (typeof value !== 'string') throw malformed(`${JSON.stringify(value)} where text is expected`);
  return value;
}

function jsonBytes(value) {
  const decoded = Buffer.from(jsonText(value), 'base64');
  if (decoded.toString('base64') !== value) throw malformed(`${JSON.stringify(value)} is not base64`);
  return decoded;
}

function jsonArray(value) {
  if (!Array.isArray(value)) throw malformed(`${JSON.stringify(value)} where a list is expected`);
  return value;
}

/** Integers from `least` to `most`. */
export function int(least, most) {
  const asNumber = BigInt(most) <= BigInt(Number.MAX_SAFE_INTEGER) && BigInt(least) >= BigInt(-Number.MAX_SAFE_INTEGER);
  const low = BigInt(least);
  const high = BigInt(most);
  const bounded = (value) => {
    if (value < low || value > high) throw malformed(`${value} is outside ${low} to ${high}`);
    return asNumber ? Number(value) : value;
  };
  return {
    encode: encodeInt,
    read: (reader) => bounded(reader.int()),
    fromJson: (value) => bounded(jsonInt(value)),
  };
}

/** Byte strings of `least` to `most` bytes. */
export function bytes(least, most = least) {
  const bounded = (value) => {
    if (value.length < least || value.length > most) {
      throw malformed(`${value.length} bytes, expected ${least === most ? least : `${least} to ${most}`}`);
    }
    return value;
  };
  return {
    encode: (value) => concat(lengthHead(value.length, [0, 0], { 1: 0xc4, 2: 0xc5, 4: 0xc6 }), value),
    read: (reader) => bounded(reader.binary()),
    fromJson: (value) => bounded(jsonBytes(value)),
  };
}

/** Text of at most `most` Unicode code points. */
export function text(most = Infinity, least = 0) {
  const bounded = (value) => {
    const count = [...value].length;
    if (count < least || count > most) throw malformed(`text of ${count} characters, expected ${least} to ${most}`);
    return value;
  };
  return {
    encode(value) {
      const utf8 = Buffer.from(value, 'utf8');
      return concat(lengthHead(utf8.length, [0xa0, 32], { 1: 0xd9, 2: 0xda, 4: 0xdb }), utf8);
    },
    read: (reader) => bounded(reader.text()),
    fromJson: (value) => bounded(jsonText(value)),
  };
}

export const bool = {
  encode: (value) => Buffer.of(value ? 0xc3 : 0xc2),
  read(reader) {
    const head = reader.take(1)[0];
    if (head !== 0xc2 && head !== 0xc3)
      throw malformed(`type byte 0x${head.toString(16)} where a truth value is expected`);
    return head === 0xc3;
  },
};

/** One of these texts, or one of these integers (2.2/6). */
export function enumeration(...values) {
  const of = typeof values[0] === 'number' ? int(Math.min(...values), Math.max(...values)) : text();
  const listed = (value) => {
    if (!values.includes(value)) throw malformed(`${value} is not one of ${values.join(', ')}`);
    return value;
  };
  return {
    encode: of.encode,
    read: (reader) => listed(of.read(reader)),
    fromJson: (value) => listed(of.fromJson(value)),
  };
}

const arrayHead = (length) => lengthHead(length, [0x90, 16], { 2: 0xdc, 4: 0xdd });

/** Lists of `least` to `most` values of one type (2.2/4). */
export function list(of, most = Infinity, least = 0) {
  const check = (length, possible) => {
    if (length < least || length > Math.min(most, possible)) {
      throw malformed(`list of ${length} values, expected ${least} to ${Math.min(most, possible)}`);
    }
  };
  return {
    encode: (values) => concat(arrayHead(values.length), ...values.map((value) => of.encode(value))),
    read(reader) {
      const length = reader.arrayLength();
      check(length, reader.left); // every value takes a byte at least (2.4/4)
      return Array.from({ length }, () => of.read(reader));
    },
    fromJson(value) {
      check(jsonArray(value).length, Infinity);
      return value.map((each) => of.fromJson(each));
    },
  };
}

/** Lists of exactly these types (2.2/4). */
export function tuple(...types) {
  const check = (length) => {
    if (length !== types.length) throw malformed(`list of ${length} values, expected ${types.length}`);
  };
  return {
    encode: (values) => concat(arrayHead(types.length), ...types.map((type, i) => type.encode(values[i]))),
    read(reader) {
      check(reader.arrayLength());
      return types.map((type) => type.read(reader));
    },
    fromJson(value) {
      check(jsonArray(value).length);
      return types.map((type, i) => type.fromJson(value[i]));
    },
  };
}

/** A value or nil, which becomes null (2.2/5). */
export function optional(of) {
  return {
    encode: (value) => (value === null ? Buffer.of(0xc0) : of.encode(value)),
    read(reader) {
      if (reader.peek() !== 0xc0) return of.read(reader);
      reader.take(1);
      return null;
    },
    fromJson: (value) => (value === null ? null : of.fromJson(value)),
  };
}

/** A record: the list of its fields in order, without names (2.2/1, 2.2/2). */
export function record(name, fields) {
  const names = Object.keys(fields);
  const values = tuple(...Object.values(fields));
  const named = (got) => Object.fromEntries(names.map((field, i) => [field, got[i]]));
  return {
    name,
    encode: (value) => values.encode(names.map((field) => value[field])),
    read: (reader) => named(values.read(reader)),
    fromJson: (value) => named(values.fromJson(value)),
  };
}

/** The value of canonical bytes, all of them. */
export function decode(data, type, bytesMax) {
  const name = type.name ?? 'value';
  if (data.length > bytesMax) throw oversized(`${name} of ${data.length} bytes, at most ${bytesMax} are allowed`);
  const reader = new Reader(data);
  let value;
  try {
    value = type.read(reader);
  } catch (error) {
    if (error.isRemote) error.message = `${name}: ${error.message}`;
    throw error;
  }
  if (reader.left > 0) throw malformed(`${name}: ${reader.left} bytes follow its end`);
  return value;
}

/** The canonical bytes of a value. */
export const encode = (value, type) => type.encode(value);
