"""How a slim model is served by other software: the commands that start servers, and the requests that ask the task."""
