"""What a dataset asks: loss, weights and scores."""

from jdyn.tasks.multiclass import Multiclass
from jdyn.tasks.multilabel import Multilabel
from jdyn.tasks.regression import Regression
from jdyn.tasks.segmentation import Segmentation
from jdyn.tasks.task import Task

TASKS = {
  'multiclass': Multiclass,
  'multilabel': Multilabel,
  'regression': Regression,
  'segmentation': Segmentation,
}
"""Tasks by the name that a `DataSpec` gives; each takes `num_outputs`."""

__all__ = ['TASKS', 'Multiclass', 'Multilabel', 'Regression', 'Segmentation', 'Task']
