"""`taskslim demo`: the whole service, once, on a real model. The rows beside this file were written for it."""
