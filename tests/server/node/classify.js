// Calls every method of a server, with gRPC for Node and the contract, and prints the answers as one JSON document:
//   node classify.js ENDPOINT PROTO TENSOR SHAPE DECLARED
// PROTO: attention_patterns.proto. TENSOR: a file of float32, little-endian. SHAPE: layers,heads,L,L.
// DECLARED: further fields of ClassifyHeadsRequest, as JSON.
"use strict";
const fs = require("node:fs");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [endpoint, proto, file, shapeText, declaredText] = process.argv.slice(2);
const format = { keepCase: true, enums: String, longs: String, json: true }; // json: NaN as "NaN"
const deadline = Date.now() + 300_000; // ms

const contract = grpc.loadPackageDefinition(loader.loadSync(proto, format)).attention_patterns.v1;

// The messages used of grpc/health/v1/health.proto and google/rpc/{status,error_details}.proto.
const text = (id) => ({ type: "string", id });
const standard = loader.fromJSON(
  {
    nested: {
      "grpc.health.v1": {
        nested: {
          HealthCheckRequest: { fields: { service: text(1) } },
          HealthCheckResponse: { fields: { status: { type: "ServingStatus", id: 1 } } },
          ServingStatus: { values: { UNKNOWN: 0, SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } },
          Health: { methods: { Check: { requestType: "HealthCheckRequest", responseType: "HealthCheckResponse" } } },
        },
      },
      "google.rpc": {
        nested: {
          Status: {
            fields: {
              code: { type: "int32", id: 1 },
              message: text(2),
              details: { rule: "repeated", type: "google.protobuf.Any", id: 3 },
            },
          },
          ErrorInfo: { fields: { reason: text(1), domain: text(2) } },
        },
      },
      "google.protobuf": { nested: { Any: { fields: { type_url: text(1), value: { type: "bytes", id: 2 } } } } },
    },
  },
  format,
);
const { Health } = grpc.loadPackageDefinition(standard).grpc.health.v1;

// Returns the answer, or the error: its status and the google.rpc.Status that came in its trailer.
function ask(client, method, request) {
  return new Promise((resolve) => {
    client[method](request, { deadline }, (error, answer) => resolve(error ? { error: describe(error) } : answer));
  });
}

function describe({ code, details, metadata }) {
  const [trailer] = metadata.get("grpc-status-details-bin");
  return { code, details, status: trailer && standard["google.rpc.Status"].deserialize(trailer) };
}

function askStream(client, requests) {
  return new Promise((resolve, reject) => {
    const call = client.StreamClassifyHeads({ deadline });
    const answers = [];
    call.on("data", (answer) => answers.push(answer));
    call.on("error", reject);
    call.on("end", () => resolve(answers));
    for (const request of requests) call.write({ request });
    call.end();
  });
}

async function main() {
  const declared = JSON.parse(declaredText);
  const shape = shapeText.split(",").map(Number);
  const data = fs.readFileSync(file);
  const tensor = (sizes, bytes) => ({ data_type: "DATA_TYPE_FLOAT32", shape: sizes, data: bytes });
  const size = data.length / shape[0]; // bytes of a layer
  const chunks = Array.from({ length: shape[0] }, (_, layer) => ({
    ...declared,
    request_id: "chunks",
    first_layer: layer,
    attention: tensor([1, ...shape.slice(1)], data.subarray(layer * size, (layer + 1) * size)),
  }));
  const bad = { ...chunks[1], request_id: "bad", attention: tensor([1, ...shape.slice(1)], Buffer.alloc(size)) };

  const client = new contract.AttentionPatternService(endpoint, grpc.credentials.createInsecure());
  const health = new Health(endpoint, grpc.credentials.createInsecure());
  const answers = {
    health: await ask(health, "Check", { service: "attention_patterns.v1.AttentionPatternService" }),
    model: await ask(client, "GetModel", {}),
    whole: await ask(client, "ClassifyHeads", { ...declared, request_id: "whole", attention: tensor(shape, data) }),
    bad: await ask(client, "ClassifyHeads", bad),
    stream: await askStream(client, [chunks[0], bad, ...chunks.slice(1)]),
  };
  console.log(JSON.stringify(answers));
  client.close();
  health.close();
}

main();
