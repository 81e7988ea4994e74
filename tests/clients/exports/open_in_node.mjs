// Runs open_exports.mjs in Node: node open_in_node.mjs NODE_MODULES MODELS JOB.json RESULT.json
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";
import { openAll, withTransformers } from "./open_exports.mjs";

const [modules, models, job, result] = process.argv.slice(2).map((path) => resolve(path));
async function run() {
  const transformers = createRequire(`${modules}/`)("@huggingface/transformers");
  const { env } = transformers;
  Object.assign(env, { allowRemoteModels: false, localModelPath: `${models}/` });
  const found = await openAll(JSON.parse(readFileSync(job, "utf8")), env.version, withTransformers(transformers, {}));
  writeFileSync(result, JSON.stringify(found));
}

await run().catch((error) => {
  console.error(error.message.split("\n")[0]);
  process.exitCode = 1;
});
