#!/usr/bin/env node
// A read-only light client of the Deepshard protocol. `node client.js --help` says how to use it.

import { HELP, readSettings, reporter } from './lib/cli.js';
import { LocalError, UsageError } from './lib/errors.js';
import { run } from './lib/steps.js';

async function main() {
  let json = false;
  try {
    const settings = readSettings(process.argv.slice(2));
    if (settings.help) {
      process.stdout.write(HELP);
      return 0;
    }
    ({ json } = settings);
    await run(settings, reporter(json));
    return 0;
  } catch (error) {
    const isUsage = error instanceof UsageError;
    if (!isUsage && !error.isRemote && !(error instanceof LocalError)) throw error; // a fault of this program
    const message = isUsage ? error.message : `${error.name}: ${error.message}`;
    process.stderr.write(
      json ? `${JSON.stringify({ error: error.name, message: error.message })}\n` : `light-client: ${message}\n`,
    );
    return isUsage ? 2 : 1;
  }
}

process.exitCode = await main();
