// A button at each block of code that writes it to the clipboard. Without a script the page has none.

const SHOWN = 2000; // ms that a button says what it did

for (const block of document.querySelectorAll("pre")) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "To clipboard";
  button.addEventListener("click", async () => {
    const text = block.querySelector("code").textContent;
    button.textContent = await write(text) ? "In the clipboard" : "Not allowed";
    setTimeout(() => button.textContent = "To clipboard", SHOWN);
  });
  block.before(button);
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch { // not over https, or not permitted
    return false;
  }
}
