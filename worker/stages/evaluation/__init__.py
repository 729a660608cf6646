"""The evaluation of the dense and the slim model on the sets of a job, with controls, speed and quantised copies."""
