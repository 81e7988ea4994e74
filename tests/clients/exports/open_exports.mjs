// Opens exported folders with transformers.js or with onnxruntime-web, in Node and in a page: see open_exports.py.

const labels = (dims) => new BigInt64Array(dims.reduce((product, side) => product * side, 1)).fill(1n);
const plain = (tensor) => ({ dims: tensor.dims, data: Array.from(tensor.data, Number) });
const floats = (Tensor, { dims, data }) => new Tensor("float32", Float32Array.from(data), dims);

export async function openAll(job, version, open) {
  const cases = [];
  for (const entry of job.cases) {
    try {
      cases.push(await open(entry, job));
    } catch (error) {
      cases.push({ error: String(error) });
    }
  }
  return { version, cases };
}

// The files that hold a graph's weights, of those in its folder.
const weightsOf = (files, graph) => files.filter((file) => !file.endsWith("_data") || file === `${graph}_data`);

// transformers.js: the layout that is named after it needs `dtype` alone. For the flat one the graphs' place is named, and
// the files of weights, which are given as bytes.
export const withTransformers = ({ AutoModel, Sam2Model, Tensor }, options) => async (entry, job) => {
  const settings = (weights) =>
    entry.layout === "transformers.js"
      ? { ...options, dtype: { fp32: "fp32", fp16: "fp16", int8: "q8" }[entry.precision] }
      : { ...options, dtype: "fp32", subfolder: "", session_options: { externalData: weights.map((path) => ({ path, data: path })) } };
  const encoder = await AutoModel.from_pretrained(entry.encoder, settings(entry.weights.encoder));
  const { last_hidden_state } = await encoder({ pixel_values: floats(Tensor, job.pixels) });
  const sam2 = await Sam2Model.from_pretrained(entry.sam2, settings(entry.weights.sam2));
  const found = await sam2({
    pixel_values: floats(Tensor, job.image),
    input_points: floats(Tensor, job.points),
    input_labels: new Tensor("int64", labels(job.points.dims.slice(0, 3)), job.points.dims.slice(0, 3)),
  });
  return { features: plain(last_hidden_state), logits: plain(found.pred_masks), predicted_iou: plain(found.iou_scores) };
};

// onnxruntime-web: given the graph and the files of its weights as bytes, under the names that the graph has for them.
export const withOnnxruntimeWeb = (ort, read) => async (entry, job) => {
  const open = async (model, name) => {
    const folder = [entry[model], entry.subfolder].filter(Boolean).join("/");
    const graph = `${name}${entry.suffix}.onnx`;
    const externalData = weightsOf(entry.weights[model], graph).map(async (path) => ({ path, data: await read(`${folder}/${path}`) }));
    return ort.InferenceSession.create(await read(`${folder}/${graph}`), { externalData: await Promise.all(externalData) });
  };
  const encoder = await open("encoder", "model");
  const { last_hidden_state } = await encoder.run({ pixel_values: floats(ort.Tensor, job.pixels) });
  const vision = await open("sam2", "vision_encoder");
  const decoder = await open("sam2", "prompt_encoder_mask_decoder");
  const embeddings = await vision.run({ pixel_values: floats(ort.Tensor, job.image) });
  const found = await decoder.run({
    ...embeddings,
    input_points: floats(ort.Tensor, job.points),
    input_labels: new ort.Tensor("int64", labels(job.points.dims.slice(0, 3)), job.points.dims.slice(0, 3)),
    input_boxes: new ort.Tensor("float32", new Float32Array(0), [1, 0, 4]),
  });
  return { features: plain(last_hidden_state), logits: plain(found.pred_masks), predicted_iou: plain(found.iou_scores) };
};
