// Reads the schema of a request, and carries over the fields that the form lacks from the job that fills it.

/** A request of the API without nulls and without values that equal the contract's defaults. */
export function withoutDefaults(value, schema, schemas) {
  const { properties = {} } = resolved(schema, schemas);
  const entries = Object.entries(value)
    .filter(([name, member]) => member !== null && !isAlike(member, properties[name]?.default))
    .map(([name, member]) => [name, pruned(member, properties[name] ?? {}, schemas)]);
  return Object.fromEntries(entries);
}

function pruned(member, schema, schemas) {
  if (Array.isArray(member)) return member.map((item) => pruned(item, schema.items ?? {}, schemas));
  return isObject(member) ? withoutDefaults(member, schema, schemas) : member;
}

/** Name -> default of the fields of a schema that have one. */
export function defaultsOf({ properties }) {
  return Object.fromEntries(Object.entries(properties).map(([name, field]) => [name, field.default]));
}

/** Whether the contract marks the field of a request with this dotted name, or a field that contains it, as expert. */
export function isExpert(name, schema, schemas) {
  let found = schema;
  for (const part of name.split(".")) {
    found = resolved(found, schemas).properties?.[part];
    if (!found) return false;
    if (found["x-group"] === "expert") return true;
  }
  return false;
}

/** Whether a request has a field with this dotted name. */
export const has = (request, name) => name.split(".").reduce((value, part) => value?.[part], request) !== undefined;

/** The schema that a reference, or the first one among alternatives, leads to. */
function resolved(schema, schemas) {
  const reference = schema.$ref ?? schema.anyOf?.find((part) => part.$ref)?.$ref;
  return reference ? schemas[reference.split("/").pop()] : schema;
}

/** `request` with the members of `carried` that the form has no field for; `decided` has the dotted names of its fields. */
export function withCarried(request, carried, decided, prefix = "") {
  const merged = { ...request };
  for (const [name, member] of Object.entries(carried)) {
    const path = prefix + name;
    if (decided.has(path)) continue;
    if (!isObject(member) || !isObject(merged[name] ?? {})) merged[name] ??= member;
    else merged[name] = withCarried(merged[name] ?? {}, member, decided, `${path}.`);
  }
  return merged;
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);
const isAlike = (one, other) => JSON.stringify(one) === JSON.stringify(other);
