// Asking the server; an answer that is an error becomes an Error with its one line.

export async function ask(path, { method = "GET", json, body, headers = {}, signal } = {}) {
  if (json !== undefined) { body = JSON.stringify(json); method = "POST"; }
  let answer;
  try {
    answer = await fetch(path, { method, body, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server does not answer any more: is `dropmae web` still running in the terminal?");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let line = text;
    try { line = JSON.parse(text).error; } catch { /* it was no JSON */ }
    throw Object.assign(new Error(line || `the server says ${answer.status}`), { status: answer.status });
  }
  return answer;
}

export async function json(path, options) {
  const answer = await ask(path, options);
  return answer.status === 204 ? null : answer.json();
}

// Lines of JSON, one after the other as they come.
export async function* lines(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}
