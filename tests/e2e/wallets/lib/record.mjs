// What a script learned, step by step: printed as one JSON object and compared between the two chains.
import assert from "node:assert/strict";

/** Collects named values. Every value must be JSON; big integers are written as decimal text. */
export class Record {
  #values = {};

  /** Keeps a value and gives it back. */
  keep(step, value) {
    assert(!(step in this.#values), `step "${step}" is there twice`);
    this.#values[step] = JSON.parse(JSON.stringify(value ?? null, (_, inner) => (typeof inner === "bigint" ? `${inner}` : inner)));
    console.error(step); // Shown by the driver when a later step fails.
    return value;
  }

  /** Keeps what `explain` makes of the error; running without one is a failure. */
  async refused(step, run, explain) {
    let told;
    try {
      await run();
    } catch (error) {
      told = explain(error);
    }
    assert(told !== undefined, `${step} was not refused`);
    assert(told !== null, `${step} was refused in words that the library does not know`);
    return this.keep(step, told);
  }

  print() {
    process.stdout.write(`${JSON.stringify(this.#values)}\n`);
  }
}

/** Ends with an error instead of waiting for ever. */
export function within(seconds, what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing came within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
