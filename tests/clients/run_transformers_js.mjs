// Runs exported folders in transformers.js: node --input-type=module - MODELS JOB.json < run_transformers_js.mjs
// JOB.json has the pixels of an image and prompts; what the models give is printed as JSON.
import { readFileSync } from "node:fs";
import { AutoModel, AutoProcessor, RawImage, Sam2Model, Tensor, env, pipeline } from "@huggingface/transformers";

const [models, job] = process.argv.slice(2);
env.allowRemoteModels = false;
env.localModelPath = models;
const { pixels, size, photo, points, dtypes } = JSON.parse(readFileSync(job, "utf8"));
const told = { features: {}, masks: {} };
const plain = (tensor) => ({ dims: tensor.dims, data: Array.from(tensor.data, Number) });

for (const dtype of dtypes) {
  const model = await AutoModel.from_pretrained("encoder", { dtype });
  const found = await model({ pixel_values: new Tensor("float32", Float32Array.from(pixels), [1, 3, size, size]) });
  told.features[dtype] = plain(found.last_hidden_state);
}
const extract = await pipeline("image-feature-extraction", "encoder", { dtype: "fp32" });
told.pipeline = (await extract(photo)).dims;

const image = await RawImage.read(photo);
const processor = await AutoProcessor.from_pretrained("sam2");
for (const dtype of dtypes) {
  const model = await Sam2Model.from_pretrained("sam2", { dtype });
  const inputs = await processor(image, { input_points: [points.map((point) => [point])] });
  const found = await model(inputs);
  const masks = await processor.post_process_masks(found.pred_masks, inputs.original_sizes, inputs.reshaped_input_sizes);
  told.masks[dtype] = { iou: plain(found.iou_scores), logits: plain(found.pred_masks), sizes: masks[0].dims };
  told.pixel_values = plain(inputs.pixel_values);
}
console.log(JSON.stringify(told));
