"use strict";

const room = JSON.parse(document.getElementById("room-name").textContent);
const state = document.getElementById("state");
const log = document.getElementById("log");
const message = document.getElementById("message");
const file = document.getElementById("file");

let socket;
let pause = 250;

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/ws/chat/${room}/`);
  socket.onopen = () => {
    pause = 250;
    state.textContent = "open";
  };
  socket.onmessage = (event) => {
    log.textContent += `${JSON.parse(event.data).message}\n`;
  };
  socket.onclose = (event) => {
    state.textContent = `closed (${event.code})`;
    // Not all at once, and less and less often.
    setTimeout(connect, pause * (0.5 + Math.random()));
    pause = Math.min(2 * pause, 20000);
  };
}

document.getElementById("say").onsubmit = (event) => {
  event.preventDefault();
  socket.send(JSON.stringify({ message: message.value }));
  message.value = "";
};

file.onchange = () => {
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  const headers = { "X-CSRFToken": token, "Content-Type": "application/octet-stream" };
  fetch(file.dataset.url, { method: "POST", headers, body: file.files[0] });
};

connect();
