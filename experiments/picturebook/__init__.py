"""A drawn world in VIST's own format: picture-book stories whose every photo and sentence is known
to the last word.

For people who have no data yet, and for measuring what real data cannot tell. `python -m
experiments.picturebook` draws the dataset; with `--check stories.json` it says how far a system's
stories follow their pictures.

Five heroes x five colours x six places x six objects x six plots of five beats, told in two moods.
The pictures show all of it but the mood: a model has to read the rest off the pictures, and can
only choose the mood.
"""
