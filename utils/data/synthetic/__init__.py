"""Synthetic surveillance videos with exact labels, for the demo, tests and benchmarks.

A *script* says who moves where and when, and from that follow the labels; a *renderer* draws any
moment of a script; a *writer* makes videos and an annotation file of it.

``motion`` (tracks) <- ``camera`` (one fixed camera) <- ``script`` (actors, labels and truth)
<- ``author`` (invents scripts); ``backdrop``, ``actors`` (drawing) <- ``renderer`` (one frame)
<- ``writer`` (files).
"""
