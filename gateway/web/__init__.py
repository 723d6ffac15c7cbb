"""The HTTP face: routes, requests, answers, the documents and the page."""
