"""A cluster on one machine: PostgreSQL, two Orthancs on one index and one folder of images, workers, one entrance.

The rule: each part is an engine that a hospital would run (PostgreSQL, HAProxy; Supervisor keeps all alive), configured
here and nowhere else; all of them share one ``HILUM_HOME``.
"""
