// Every route, from the server's own description of itself.

const example = document.getElementById("example"), routes = document.getElementById("routes");
example.textContent = `curl -F file=@horse.jpg ${location.origin}/translate -o zebra.jpg`;

function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

const { paths } = await (await fetch("openapi.json")).json();
let last = "";
for (const [path, methods] of Object.entries(paths)) {
  for (const [method, { summary, description, tags, parameters = [] }] of Object.entries(methods)) {
    const tag = tags?.[0] ?? "";
    if (tag !== last) routes.append(element("h2", (last = tag)[0].toUpperCase() + tag.slice(1)));
    const route = element("section", "", "route"), head = document.createElement("h3");
    head.append(element("code", method.toUpperCase(), "method"), element("code", path), element("span", summary));
    route.append(head, element("p", description ?? "", "soft"));
    const names = parameters.filter((one) => one.in === "query").map((one) => `?${one.name}=`).join(" ");
    if (names) route.append(element("p", `Also: ${names}`, "soft small"));
    routes.append(route);
  }
}
