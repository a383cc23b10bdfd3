"""What statements on Orochi tables do, one module a kind, each with the same entry.

`run.execute` picks the module; every `execute(session, statement, parameters, fields, sink)`
sends its rows and its command tag through the sink, or raises. Nothing here decides how to run a
query (the planner does) or speaks the protocol (the gateway does).
"""
