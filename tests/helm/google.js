// Prints what is wrong with Google's resources among the objects (JSON, an array) on standard input, a line each. Their
// classes know types, bounds and what is required; keys that nobody knows are for the unit tests.
const objects = JSON.parse(require("fs").readFileSync(0, "utf8"));
for (const object of objects) {
  const { [object.kind]: Resource } = require(`@kubernetes-models/gke/${object.apiVersion}`);
  try {
    new Resource(object).validate();
  } catch (error) {
    console.log(`${object.kind} ${object.metadata.name}: ${error.message}`);
  }
}
