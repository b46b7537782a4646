"use strict";

// Requests to the server that sent this page. The token is in the page's address and goes nowhere else.

const token = new URLSearchParams(location.search).get("token");

const UNREACHABLE = "The server does not answer. Check that annotate still runs where it was started.";

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** Replaces the browser's own words for a connection that failed. */
function unreachable(error) {
  throw error.name === "AbortError" ? error : new Error(UNREACHABLE);
}

async function request(method, path, body, signal) {
  const response = await fetch(path, {
    method,
    signal,
    headers: { Authorization: `Bearer ${token}`, ...(body && { "Content-Type": "application/json" }) },
    body: body && JSON.stringify(body),
  }).catch(unreachable);
  if (!response.ok) {
    const content = await response.json().catch(() => ({}));
    const detail = typeof content.detail === "string" ? content.detail : `The server refused this (${response.status}).`;
    throw new Refused(response.status, detail);
  }
  return response;
}

async function requestJson(method, path, body) {
  return (await request(method, path, body)).json();
}

/** The objects of a response that has one JSON object per line, as they arrive. */
async function* requestLines(path, body, signal) {
  const response = await request("POST", path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(unreachable);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}
